/*
 * From TypeScript to JavaScript, line by line: sucrase takes the types away and makes enums, parameter
 * properties and `import x = require()`. Namespaces, which it drops, become functions before that; what
 * they export is left in them for transform.js.
 */
'use strict';
const sucrase = load('sucrase.min.js');

const OPTIONS = { transforms: ['typescript'], disableESTransforms: true, keepUnusedImports: true, preserveDynamicImport: true };
const SPACE = /\b(?:namespace|module)\b/;

// The tokens from `at` on are a namespace's: its names and the index of its brace; else null.
function header(text, tokens, at) {
	const before = at > 0 ? text(at - 1) : ';';
	if (!/^(namespace|module)$/.test(text(at)) || !/^[;{}]$|^export$/.test(before) && !newline(text, tokens, at))
		return null;
	const path = [];
	let i = at + 1;
	for (; ; i += 2) {
		if (!/^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u.test(text(i)))
			return null;
		path.push(text(i));
		if (text(i + 1) !== '.')
			break;
	}
	return text(i + 1) === '{' ? { path, brace: i + 1 } : null;
}

function newline(text, tokens, at) {
	return /[\n\r]/.test(text.between(tokens[at - 1].end, tokens[at].start)) && text(at - 1) !== 'declare';
}

function closing(text, tokens, brace) {
	for (let depth = 0, i = brace; i < tokens.length; i++) {
		if (text(i) === '{' || text(i) === '${')
			depth++;
		else if (text(i) === '}' && --depth === 0)
			return i;
	}
	return -1;
}

function namespaces(source) {
	const { tokens } = sucrase.parse(source, false, true, false);
	const text = (i) => (tokens[i] ? source.slice(tokens[i].start, tokens[i].end) : '');
	text.between = (start, end) => source.slice(start, end);
	const edits = [];
	for (let i = 0; i < tokens.length; i++) {
		const found = header(text, tokens, i);
		const end = found ? closing(text, tokens, found.brace) : -1;
		if (end < 0)
			continue;
		let open = '', close = '', outer = '';
		for (const name of found.path) {
			const all = outer ? `${outer}.${name}` : name;
			open += `${outer ? '' : `var ${name};`}(function(${name}){`;
			close = `})(${all}||(${all}={}));${close}`;
			outer = name;
		}
		edits.push([tokens[i].start, tokens[found.brace].end, open], [tokens[end].start, tokens[end].end, close]);
	}
	edits.sort((a, b) => a[0] - b[0]);
	let code = '', at = 0;
	for (const [start, end, with_] of edits) {
		code += source.slice(at, start) + with_ + source.slice(start, end).replace(/[^\n]/g, '');
		at = end;
	}
	return code + source.slice(at);
}

function strip(source) {
	try {
		return sucrase.transform(SPACE.test(source) ? namespaces(source) : source, OPTIONS).code;
	} catch (error) {
		if (!error.loc)
			throw error;
		const wrong = new SyntaxError(error.message.replace(/ \(\d+:\d+\)$/, ''));
		wrong.loc = { line: error.loc.line, column: error.loc.column - 1 };
		throw wrong;
	}
}

module.exports = { strip };
