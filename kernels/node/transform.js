/*
 * From a cell to code that V8 runs as it is meant: top-level await, import, declarations that may come
 * again, and the value of the last expression.
 *
 * What a cell declares at its top level becomes a property of the global object, so that a later cell sees
 * it and may declare it again. Functions are compiled on their own, at their place, and assigned first.
 * No edit adds or removes a line; `marks` lead columns back to the source.
 */
'use strict';
const acorn = load('acorn.min.js');

const OPTIONS = {
	ecmaVersion: 'latest',
	sourceType: 'script',
	allowAwaitOutsideFunction: true,
	allowImportExportEverywhere: true,
	allowHashBang: true,
};
const HELPER = '__execd';

const blank = (text) => text.replace(/[^\n\r\u2028\u2029]/g, ' ');
const names = (list) => list.map((name) => JSON.stringify(name)).join();

function parse(source) {
	// As in the REPL, what looks like an object is one.
	if (/^\s*\{/.test(source) && !/;\s*$/.test(source)) {
		try {
			const wrapped = `(${source}\n)`;
			return [wrapped, acorn.parse(wrapped, OPTIONS)];
		} catch {
			// a block
		}
	}
	return [source, acorn.parse(source, OPTIONS)];
}

function bound(pattern, into = []) {
	switch (pattern && pattern.type) {
	case 'Identifier': into.push(pattern.name); break;
	case 'ObjectPattern': pattern.properties.forEach((p) => bound(p.value || p.argument, into)); break;
	case 'ArrayPattern': pattern.elements.forEach((p) => bound(p, into)); break;
	case 'AssignmentPattern': bound(pattern.left, into); break;
	case 'RestElement': bound(pattern.argument, into); break;
	}
	return into;
}

function children(node, visit) {
	for (const key in node) {
		const value = node[key];
		if (Array.isArray(value)) {
			for (const item of value)
				if (item && typeof item.type === 'string')
					visit(item);
		} else if (value && typeof value.type === 'string') {
			visit(value);
		}
	}
}

const isFunction = (node) => /Function/.test(node.type);

class Transform {
	constructor(source, tree) {
		this.source = source;
		this.tree = tree;
		this.edits = []; // {start, end, text}; several insertions at one place come in their order
		this.vars = new Set(); // declared by var: there from the beginning
		this.functions = [];
		this.imports = [];
		this.strict = tree.body.some((node) => node.directive === 'use strict');
	}

	edit(start, end, text) {
		this.edits.push({ start, end, text, order: this.edits.length });
	}

	// Everywhere: imports. Outside of functions: awaits and var. `export` in a function is a TypeScript namespace.
	walk(node, top, parent) {
		switch (node.type) {
		case 'ImportExpression':
			this.edit(node.start, node.start + 'import'.length, `${HELPER}.import`);
			break;
		case 'MetaProperty':
			if (node.meta.name === 'import')
				this.edit(node.start, node.end, `${HELPER}.meta`);
			break;
		case 'AwaitExpression':
			if (top) {
				this.edit(node.start, node.start, `${HELPER}.resumed(await (`);
				this.edit(node.start, node.argument.start, blank(this.source.slice(node.start + 5, node.argument.start)));
				children(node, (child) => this.walk(child, top, node));
				this.edit(node.end, node.end, '))');
				return;
			}
			break;
		case 'ForOfStatement':
			if (top && node.await && node.body.type === 'BlockStatement')
				this.edit(node.body.start + 1, node.body.start + 1, `${HELPER}.resumed();`);
			break;
		}
		if (isFunction(node) && node.body.type === 'BlockStatement')
			this.namespace(node);
		const inside = top && !isFunction(node) && node.type !== 'StaticBlock' && node.type !== 'PropertyDefinition';
		children(node, (child) => this.walk(child, inside, node));
		if (top && node.type === 'VariableDeclaration' && node.kind === 'var')
			this.variables(node, parent); // after its children: what closes them comes first
	}

	variables(node, parent) {
		const loop = /^For/.test(parent.type) && parent.body !== node;
		for (const declarator of node.declarations)
			bound(declarator.id).forEach((name) => this.vars.add(name));
		if (loop) {
			this.edit(node.start, node.declarations[0].start, '');
			return;
		}
		let at = node.start, text = 'void 0';
		for (const { start, end, init } of node.declarations) {
			if (!init)
				continue;
			this.edit(at, start, `${text},(`);
			this.edit(end, end, ')');
			[at, text] = [end, ''];
		}
		const end = this.source[node.end - 1] === ';' ? node.end - 1 : node.end;
		this.edit(at, end, text + blank(this.source.slice(at, end)).trimStart());
		if (end === node.end)
			this.edit(end, end, ';');
	}

	namespace(node) {
		const exported = [];
		for (const statement of node.body.body) {
			const declared = statement.type === 'ExportNamedDeclaration' && statement.declaration;
			if (!declared)
				continue;
			this.edit(statement.start, declared.start, '');
			if (declared.id)
				exported.push(declared.id.name);
			else
				declared.declarations.forEach(({ id }) => bound(id, exported));
		}
		const space = exported.length && node.params[0] && node.params[0].name;
		if (space)
			this.edit(node.body.start + 1, node.body.start + 1, exported.map((name) =>
				`Object.defineProperty(${space},${JSON.stringify(name)},` +
				`{get:()=>${name},enumerable:true,configurable:true});`).join(''));
	}

	// let, const, class and function at the top level; `statement` is the export around it, or the same.
	declare(node, statement) {
		if (node.type === 'FunctionDeclaration' && node.id) {
			this.functions.push(node);
		} else if (node.type === 'ClassDeclaration' && node.id) {
			const name = JSON.stringify(node.id.name);
			this.edit(statement.start, node.start, `${HELPER}.open(${name});${node.id.name}=`);
			this.edit(node.end, node.end, ';');
		} else if (node.type === 'VariableDeclaration' && node.kind !== 'var') {
			this.lexical(node, statement);
		} else if (statement !== node) {
			this.edit(statement.start, node.start, '');
		}
	}

	lexical(node, statement) {
		const all = node.declarations.flatMap(({ id }) => bound(id));
		let at = statement.start, text = `${HELPER}.open(${names(all)});`;
		for (const { start, end, init } of node.declarations) {
			this.edit(at, start, `${text}(`);
			this.edit(end, end, init ? ')' : '=void 0)');
			[at, text] = [end, ','];
		}
		this.edit(at, node.end, node.kind === 'const' ? `;${HELPER}.close(${names(all)});` : ';');
	}

	import(node) {
		const bindings = node.specifiers.map((s) => [
			s.type === 'ImportDefaultSpecifier' ? 'default' : s.type === 'ImportNamespaceSpecifier' ? '*' : s.imported.name ?? s.imported.value,
			s.local.name,
		]);
		const attributes = Object.fromEntries((node.attributes || []).map((a) => [a.key.name ?? a.key.value, a.value.value]));
		this.imports.push(`${HELPER}.resumed(await ${HELPER}.imports(${JSON.stringify([node.source.value, attributes, bindings])}));`);
		this.edit(node.start, node.end, blank(this.source.slice(node.start, node.end)));
	}

	statement(node) {
		switch (node.type) {
		case 'ImportDeclaration':
			this.import(node);
			break;
		case 'ExportNamedDeclaration':
		case 'ExportDefaultDeclaration':
			if (node.declaration) {
				this.walk(node.declaration, true, node);
				this.declare(node.declaration, node);
				break;
			}
			this.edit(node.start, node.end, blank(this.source.slice(node.start, node.end)));
			break;
		case 'ExportAllDeclaration':
			this.edit(node.start, node.end, blank(this.source.slice(node.start, node.end)));
			break;
		default:
			this.walk(node, true, this.tree);
			this.declare(node, node);
		}
	}

	value() {
		const last = this.tree.body.filter((node) => node.type !== 'EmptyStatement').pop();
		if (!last || last.type !== 'ExpressionStatement' || last.directive === 'use strict')
			return;
		const end = this.source[last.end - 1] === ';' ? last.end - 1 : last.end;
		this.edit(last.start, last.start, 'return {value:(');
		this.tail = { start: end, end, text: ')}', order: Infinity };
	}

	// The source from start to end with its edits, and where its pieces come from.
	apply(start, end, edits) {
		let code = '', at = start;
		const marks = [];
		const copy = (to) => {
			if (to > at) {
				marks.push([code.length, at]);
				code += this.source.slice(at, to);
				at = to;
			}
		};
		for (const edit of edits) {
			if (edit.start < at || edit.end > end)
				continue;
			copy(edit.start);
			marks.push([code.length, edit.start]);
			code += edit.text;
			const removed = this.source.slice(edit.start, edit.end).match(/\r\n|[\n\r\u2028\u2029]/g);
			const kept = edit.text.match(/\r\n|[\n\r\u2028\u2029]/g);
			if (removed && (!kept || kept.length < removed.length))
				code += removed.slice(kept ? kept.length : 0).join('');
			at = edit.end;
		}
		copy(end);
		return { code, marks };
	}

	result() {
		this.value();
		this.tree.body.forEach((node) => this.statement(node));
		if (this.tail)
			this.edits.push(this.tail);
		const sorted = (list) => list.sort((a, b) => a.start - b.start || a.order - b.order);
		const functions = this.functions.map((node) => this.compiled(node, sorted));
		const main = this.edits.filter((e) => !this.functions.some((f) => e.start >= f.start && e.start < f.end));
		for (const f of this.functions) {
			const from = this.tree.body.find((s) => s.declaration === f) || f;
			main.push({ start: from.start, end: f.end, text: `;${blank(this.source.slice(from.start + 1, f.end))}`, order: -1 });
		}
		const { code, marks } = this.apply(0, this.source.length, sorted(main));
		const head = `(async(${HELPER})=>{${this.strict ? '"use strict";' : ''}${this.imports.join('')}`;
		return {
			source: this.source,
			declared: [...this.vars, ...this.functions.map((f) => f.id.name)],
			vars: [...this.vars],
			functions,
			main: { code: `${head}${code}\n})`, head: head.length, marks, line: 0, from: 0 },
		};
	}

	compiled(node, sorted) {
		const inner = this.edits.filter((e) => e.start >= node.start && e.start < node.end);
		// `function f(` becomes `f=function (`: anonymous, so that the name is looked up where all others are.
		inner.push({ start: node.id.start, end: node.id.end, text: '', order: -1 });
		const { code, marks } = this.apply(node.start, node.end, sorted(inner));
		const head = `(${HELPER}=>{${this.strict ? '"use strict";' : ''}${node.id.name}=`;
		const lines = this.source.slice(0, node.start).split(/\r\n|[\n\r\u2028\u2029]/);
		return { code: `${head}${code}})`, head: head.length, marks, line: lines.length - 1, column: lines[lines.length - 1].length, from: node.start };
	}
}

function transform(source) {
	const [text, tree] = parse(source);
	return new Transform(text, tree).result();
}

module.exports = { transform };
