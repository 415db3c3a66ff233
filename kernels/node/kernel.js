/*
 * A JavaScript or TypeScript kernel: one context. The user's code runs on the main thread, in the main V8
 * context, so everything of Node is what it is in a script; wire.js talks to execd on a thread of its own.
 *
 * A cell is over when its last value is there (a promise is waited for), or at the first exception that
 * nobody caught. The event loop turns between cells: timers, servers and whatever else goes on.
 */
'use strict';
const { Worker } = require('worker_threads');
const Module = require('module');
const path = require('path');
const url = require('url');
const util = require('util');
const vm = require('vm');

const modules = {};
function load(name) {
	if (!modules[name]) {
		const module = (modules[name] = { exports: {} });
		vm.runInThisContext(`(function(module,exports,require,load){${SOURCES[name]}\n})`, { filename: `execd:${name}` })(
			module, module.exports, require, load);
	}
	return modules[name].exports;
}

const errors = load('errors.js');
const display = load('display.js');
const streams = load('streams.js');

const LANGUAGE = process.argv[1] === 'typescript' ? 'typescript' : 'javascript';
const names = { IDLE: 0, RUNNING: 1, PENDING: 2, TERMINATING: 3, TERMINATED: 4, STATE: 0, SYNCED: 1 };
const shared = new Int32Array(new SharedArrayBuffer(8));
const { IDLE, RUNNING, PENDING, TERMINATING, TERMINATED, STATE, SYNCED } = names;

const worker = new Worker(SOURCES['wire.js'], { eval: true, env: {}, execArgv: [], workerData: { shared: shared.buffer, names } });
const port = { send: worker.postMessage.bind(worker) };

let current = null; // the cell that runs
let syncs = 0;

// ---- the wire -----------------------------------------------------------------

function send(kind, message) {
	port.send({ kind, payload: display.encode(message) });
}

// Returns when execd has taken what was written and sent before.
function sync() {
	if (Atomics.load(shared, STATE) === IDLE)
		return;
	const wanted = ++syncs;
	send('Y', { sync: wanted });
	for (let seen; (seen = Atomics.load(shared, SYNCED)) < wanted;)
		Atomics.wait(shared, SYNCED, seen);
}

function publish(data) {
	const payload = display.encodeResult(data);
	port.send({ kind: 'R', payload: { buffer: payload.buffer.slice(payload.byteOffset, payload.byteOffset + payload.length) } });
	sync();
}

function hello(error) {
	send('H', { protocol: 1, language: LANGUAGE, version: process.versions.node, interrupt: 'frame', ...(error && { error }) });
}

// ---- what a cell finds ---------------------------------------------------------

const here = () => path.join(process.cwd(), `[${LANGUAGE}]`);

let importer = { at: null, import: null };
function importFrom(specifier, options) {
	if (importer.at !== here()) {
		const module = new Module(here(), null);
		module.filename = here();
		module.paths = Module._nodeModulePaths(process.cwd());
		module._compile('module.exports=(s,o)=>o===undefined?import(s):import(s,o)', here());
		importer = { at: here(), import: module.exports };
	}
	return importer.import(specifier, options);
}

let required = { at: null, require: null };
function requirer() {
	if (required.at !== here())
		required = { at: here(), require: Module.createRequire(here()) };
	return required.require;
}

function makeRequire() {
	const require = (id) => requirer()(id);
	for (const name of ['resolve', 'main', 'extensions', 'cache'])
		Object.defineProperty(require, name, { enumerable: true, get: () => requirer()[name] });
	return require;
}

function define(name, descriptor) {
	Object.defineProperty(globalThis, name, { configurable: true, enumerable: false, ...descriptor });
}

// What a cell has deleted of the language comes back: the kernel needs it as well.
const world = globalThis;
const { defineProperty, getOwnPropertyDescriptor } = Object;
const originals = Object.getOwnPropertyNames(world).map((name) => ({ name, own: getOwnPropertyDescriptor(world, name) }));

function restore() {
	for (let i = 0; i < originals.length; i++)
		if (getOwnPropertyDescriptor(world, originals[i].name) === undefined)
			defineProperty(world, originals[i].name, originals[i].own);
}

const helper = {
	// A name may be assigned from now on, whatever it was.
	open(...list) {
		for (const name of list) {
			const now = Object.getOwnPropertyDescriptor(globalThis, name);
			if (!now || (now.configurable && !now.writable))
				Object.defineProperty(globalThis, name, { value: undefined, writable: true, enumerable: true, configurable: true });
		}
	},
	// A constant, until it is declared again.
	close(...list) {
		for (const name of list) {
			const value = globalThis[name];
			const now = Object.getOwnPropertyDescriptor(globalThis, name);
			if (now && now.configurable)
				Object.defineProperty(globalThis, name, {
					get: () => value,
					set() { throw new TypeError('Assignment to constant variable.'); },
					enumerable: true,
					configurable: true,
				});
		}
	},
	// What a cell goes on with after an await, unless it was interrupted meanwhile.
	make(cell) {
		return Object.assign(Object.create(helper), {
			resumed(value) {
				if (cell.interrupted)
					throw cell.interrupted;
				return value;
			},
		});
	},
	import: importFrom,
	async imports([specifier, attributes, bindings]) {
		const options = Object.keys(attributes).length ? { with: attributes, assert: attributes } : undefined;
		const found = await importFrom(specifier, options);
		for (const [name, local] of bindings) {
			if (name !== '*' && !(name in found) && LANGUAGE !== 'typescript')
				throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${name}'`);
			helper.open(local);
			globalThis[local] = name === '*' ? found : found[name];
		}
	},
	get meta() {
		const resolve = (specifier) => {
			const found = requirer().resolve(specifier);
			return path.isAbsolute(found) ? url.pathToFileURL(found).href : found;
		};
		return { url: url.pathToFileURL(here()).href, filename: here(), dirname: process.cwd(), resolve };
	},
};

class SystemExit extends Error {
	constructor(code) {
		super(String(code ?? 0));
		this.name = 'SystemExit';
	}
}

let last;
function makeGlobals() {
	const module = new Module('<cell>', null);
	module.paths = [];
	define('require', { value: makeRequire(), writable: true });
	define('module', { value: module, writable: true });
	define('exports', { value: module.exports, writable: true });
	define('__dirname', { get: () => process.cwd() });
	define('__filename', { get: here });
	define('display', { value: showDisplay, writable: true });
	define('_', { get: () => last, set: (value) => define('_', { value, writable: true, enumerable: true }) });
	process.argv = [process.execPath];
	process.exit = (code) => {
		throw new SystemExit(code ?? process.exitCode);
	};
}

function showDisplay(...values) {
	for (const value of values)
		publish(display.isBundle(value) ? Object.fromEntries(Object.entries(value)) : display.bundle(value));
}

// ---- a cell ----------------------------------------------------------------------

const onInterrupt = () => {};

function prepare() {
	streams.prepare();
	if (!process.listeners('SIGINT').includes(onInterrupt))
		process.on('SIGINT', onInterrupt); // an interrupt means the cell, never the process
	if (!process.hasUncaughtExceptionCaptureCallback())
		process.setUncaughtExceptionCaptureCallback(uncaught);
}

function compile(cell) {
	let source = cell.code;
	if (LANGUAGE === 'typescript')
		source = load('typescript.js').strip(source);
	const plan = load('transform.js').transform(source);
	const script = (part) => new vm.Script(part.code, {
		filename: cell.name,
		lineOffset: part.line,
		columnOffset: (part.column || 0) - part.head,
		...(vm.constants && { importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER }),
	});
	errors.remember(cell.name, cell.code, LANGUAGE === 'javascript' ? plan : null);
	const scripts = [...plan.functions, plan.main].map(script); // what is wrong with the last line stops the first
	helper.open(...plan.declared);
	return scripts;
}

async function evaluate(cell) {
	const mine = helper.make(cell);
	const scripts = compile(cell);
	const main = scripts.pop();
	for (const script of scripts)
		script.runInThisContext()(mine);
	const box = await main.runInThisContext()(mine);
	restore();
	const value = box && util.types.isPromise(box.value) ? await box.value : box && box.value;
	mine.resumed();
	if (value !== undefined && current === cell) {
		last = value;
		publish(display.bundle(value));
	}
}

function execute({ cell: number, code }) {
	const cell = { number, code, name: `<cell ${number}>`, interrupted: null };
	prepare();
	errors.remember(cell.name, code, null);
	current = cell;
	Atomics.store(shared, STATE, RUNNING);
	send('S', { cell: number });
	// One more turn of the loop: a rejection that nobody handles is known by then.
	evaluate(cell).then(() => setImmediate(finish, cell, null), (error) => finish(cell, { error }));
}

function finish(cell, failure) {
	restore();
	if (current !== cell)
		return;
	const end = errors.describe(failure && { ...failure, name: cell.name });
	leave();
	current = null;
	send('E', { cell: cell.number, ...end });
}

// No interrupt from here on. One that is on its way is waited for: it must not hit anything else.
function leave() {
	for (const state of [PENDING, RUNNING])
		Atomics.compareExchange(shared, STATE, state, IDLE);
	Atomics.wait(shared, STATE, TERMINATING);
	Atomics.store(shared, STATE, IDLE);
}

function interrupted() {
	const error = new Error('the cell was interrupted');
	error.name = 'KeyboardInterrupt';
	error.stack = 'KeyboardInterrupt: the cell was interrupted';
	if (current)
		current.interrupted = error;
	return error;
}

// The event loop turns, so the cell waits for something.
function onInterruptFrame() {
	if (Atomics.compareExchange(shared, STATE, PENDING, RUNNING) === PENDING)
		finish(current, { error: interrupted() });
	else
		Atomics.wait(shared, STATE, TERMINATING); // it hits here, or has hit what ran
}

function onTerminated() {
	Atomics.compareExchange(shared, STATE, TERMINATED, RUNNING);
	if (current)
		finish(current, { error: interrupted() });
}

function uncaught(error) {
	restore();
	if (current && error === current.interrupted || error && error.name === 'KeyboardInterrupt')
		return;
	if (process.listenerCount('uncaughtException') > 0) {
		process.emit('uncaughtException', error, 'uncaughtException');
		return;
	}
	if (current)
		finish(current, { error });
	else
		streams.put(2, Buffer.from(`${errors.describe({ error }).traceback.join('\n')}\n`));
}

// ---- the process -------------------------------------------------------------------

function begin({ cwd }) {
	try {
		if (cwd)
			process.chdir(cwd);
	} catch (error) {
		hello(`chdir '${cwd}': ${error.message}`);
		return;
	}
	hello();
}

worker.on('message', (message) => {
	if (message.execute)
		setImmediate(execute, message.execute);
	else if (message.interrupt)
		onInterruptFrame();
	else if (message.terminated)
		onTerminated();
	else if (message.begin)
		begin(message.begin);
	else
		hello();
});

streams.install();
streams.onSync(sync);
makeGlobals();
prepare();
load('transform.js');
if (LANGUAGE === 'typescript')
	load('typescript.js');
