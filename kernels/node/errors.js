/*
 * What END says of an error: the user's lines, and no frame of the kernel.
 */
'use strict';
const util = require('util');
const { shorten } = load('display.js');

const TEXT_MAX = 256 << 10; // characters of an error's value, and of its traceback
const CELLS_MAX = 256; // of which columns and lines are known
const POSITION = /<cell \d+>:(\d+):(\d+)/;
const KERNEL = /^\s+at .*(?:execd:|node:internal\/|node:vm|\(<anonymous>\)$)/;

const cells = new Map(); // name: {lines, parts}

function remember(name, source, plan) {
	cells.set(name, { lines: source.split(/\r\n|[\n\r\u2028\u2029]/), plan });
	if (cells.size > CELLS_MAX)
		cells.delete(cells.keys().next().value);
}

// A column of the code that V8 has run, as one of the source; null when it is not known.
function column(cell, line, seen) {
	const { plan } = cell;
	if (!plan)
		return null;
	const inside = (f) => line - 1 >= f.line && line - 1 < f.line + f.code.split(/\r\n|[\n\r\u2028\u2029]/).length;
	const part = plan.functions.find((f) => inside(f) && (line - 1 > f.line || seen - 1 >= f.column)) || plan.main;
	const body = part.code.slice(part.head);
	let start = 0;
	for (let skip = line - 1 - part.line; skip > 0; skip--) {
		const at = body.slice(start).search(/[\n\r\u2028\u2029]/);
		if (at < 0)
			return null;
		start += at + (body.startsWith('\r\n', start + at) ? 2 : 1);
	}
	const offset = start + seen - 1 - (line - 1 === part.line ? part.column || 0 : 0);
	const index = part.marks.findLastIndex ? part.marks.findLastIndex(([at]) => at <= offset) : part.marks.length - 1;
	const mark = part.marks[index];
	if (!mark)
		return null;
	const next = part.marks[index + 1];
	const source = Math.min(mark[1] + offset - mark[0], next ? next[1] : plan.source.length);
	const lineStart = Math.max(...['\n', '\r', '\u2028', '\u2029'].map((c) => plan.source.lastIndexOf(c, source - 1))) + 1;
	return source - lineStart + 1;
}

function mapped(text) {
	return text.replace(/(<cell \d+>):(\d+):(\d+)/g, (all, name, line, seen) => {
		const cell = cells.get(name);
		const at = cell ? column(cell, Number(line), Number(seen)) : null;
		return at === null ? `${name}:${line}` : `${name}:${line}:${at}`;
	});
}

// The line of the user's that an error comes from, with a mark where that is known.
function excerpt(name, line, at) {
	const cell = cells.get(name);
	const text = cell && cell.lines[line - 1];
	if (text === undefined || text.length > 1000)
		return [];
	return [`${name}:${line}`, text, ...(at ? [text.slice(0, at - 1).replace(/[^\t]/g, ' ') + '^'] : []), ''];
}

function syntax(error, name) {
	const { line, column: at } = error.loc;
	const message = error.message.replace(/ \(\d+:\d+\)$/, '');
	const lines = [...excerpt(name, line, at + 1), `SyntaxError: ${message}`];
	return { ename: 'SyntaxError', evalue: `${message} (${name}, line ${line})`, lines };
}

function thrown(error) {
	const text = util.inspect(error, { depth: 4 });
	const plain = /^\[([^\n]*)\]$/.exec(text); // an error without frames
	const lines = mapped(plain ? plain[1] : text).split('\n').filter((line) => !KERNEL.test(line));
	const first = /(<cell \d+>):(\d+)(?::(\d+))?/.exec(lines.filter((line) => /^\s+at /.test(line)).join('\n'));
	const head = first && !/^<cell \d+>:\d+$/.test(lines[0]) ? excerpt(first[1], Number(first[2]), Number(first[3])) : [];
	return { ename: String(error.name || error.constructor.name), evalue: String(error.message), lines: [...head, ...lines] };
}

function say(error, name) {
	if (error && error.loc && error instanceof SyntaxError && !POSITION.test(error.stack.split('\n')[0]))
		return syntax(error, name);
	if (util.types.isNativeError(error) || error instanceof Error)
		return thrown(error);
	const text = util.inspect(error);
	return { ename: 'Error', evalue: typeof error === 'string' ? error : text, lines: [`Uncaught ${text}`] };
}

// failure: null, or {error, name}
function describe(failure) {
	if (!failure)
		return { status: 'ok' };
	let told;
	try {
		told = say(failure.error, failure.name);
	} catch {
		told = { ename: 'Error', evalue: 'an error that cannot be shown', lines: ['Uncaught: an error that cannot be shown'] };
	}
	const traceback = shorten(told.lines.join('\n'), TEXT_MAX).split('\n');
	return { status: 'error', ename: shorten(told.ename, 1000), evalue: shorten(told.evalue, TEXT_MAX), traceback };
}

module.exports = { describe, remember };
