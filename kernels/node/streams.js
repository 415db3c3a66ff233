/*
 * process.stdout and process.stderr. Bytes are written at once, on descriptors of our own: what a cell does
 * to 1 and 2, or a program that it starts makes of them (non-blocking), does not matter here.
 */
'use strict';
const fs = require('fs');
const { Writable } = require('stream');

let turn = 0; // the descriptor that this cell wrote to last
let sync = () => {};
const own = { 1: 1, 2: 2 };

function reopen(fd) {
	try {
		return fs.openSync(`/proc/self/fd/${fd}`, 'a');
	} catch {
		return fd; // no /proc here
	}
}

function put(fd, data) {
	// Two pipes have no common order: a change from one to the other waits until execd has read the first.
	if (turn !== fd && turn !== 0)
		sync();
	turn = fd;
	for (let at = 0; at < data.length;) {
		try {
			at += fs.writeSync(own[fd], data, at);
		} catch (error) {
			if (error.code !== 'EAGAIN')
				return; // execd has gone
			sync(); // answered when the pipe is empty
		}
	}
}

class Output extends Writable {
	constructor(fd) {
		super({ highWaterMark: 1 << 20, emitClose: false });
		this.fd = fd;
		this._type = 'pipe';
		this._isStdio = true;
	}

	// Past the queue of Writable: an interrupt between its steps would leave it waiting for ever.
	write(chunk, encoding, done) {
		if (typeof encoding === 'function')
			[encoding, done] = [undefined, encoding];
		const text = typeof chunk === 'string';
		if (this.writableEnded || this.destroyed || this.writableCorked || !(text || chunk instanceof Uint8Array))
			return super.write(chunk, encoding, done);
		put(this.fd, text ? Buffer.from(chunk, encoding) : chunk);
		if (done)
			process.nextTick(done);
		return true;
	}

	_write(chunk, encoding, done) {
		put(this.fd, chunk);
		done();
	}

	_destroy(error, done) {
		done(error);
	}
}

const streams = {};

function install() {
	for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
		own[fd] = reopen(fd);
		streams[name] = new Output(fd);
		Object.defineProperty(process, name, {
			configurable: true,
			enumerable: true,
			get: () => streams[name],
			set: (value) => { streams[name] = value; },
		});
	}
}

// A cell finds its streams usable, whatever the last one did to them.
function prepare() {
	turn = 0;
	for (const [name, fd] of [['stdout', 1], ['stderr', 2]]) {
		try {
			fs.fstatSync(fd);
		} catch {
			reopen(own[fd]); // takes the lowest free number, which is fd: 0 is never closed before it
		}
		const stream = streams[name];
		if (!stream || typeof stream.write !== 'function' || stream.writableEnded || stream.destroyed)
			streams[name] = new Output(fd);
	}
}

module.exports = { install, prepare, put, onSync: (fn) => { sync = fn; } };
