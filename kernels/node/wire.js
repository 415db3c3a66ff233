/*
 * The thread that talks to execd: frames on descriptor 3 (proto/kernel-protocol.md), and interrupts.
 *
 * The main thread may be in a loop of the user's, so this one never waits for it. An interrupt is first
 * offered to the main thread's event loop; one that does not turn is in code, and that code is terminated
 * through the inspector, which reaches it wherever it is. `state` is shared by both threads:
 *
 *   IDLE -> RUNNING -> IDLE                     a cell
 *           RUNNING -> PENDING -> RUNNING       an interrupt that the event loop took
 *           PENDING -> TERMINATING -> TERMINATED -> RUNNING       one that it did not take
 */
'use strict';
const net = require('net');
const { parentPort, workerData } = require('worker_threads');

const HEADER = 5, FRAME_MAX = 64 << 20;
const NUDGE_MS = 100, NUDGE_MAX_MS = 10000;
const TURN_MS = 30; // what an event loop that is not in a loop of the user's needs at most
const { IDLE, RUNNING, PENDING, TERMINATING, TERMINATED, STATE, SYNCED } = workerData.names;
const shared = new Int32Array(workerData.shared);
const socket = new net.Socket({ fd: 3, readable: true, writable: true });

let session = null;
try {
	const inspector = require('inspector');
	session = new inspector.Session();
	session.connectToMainThread();
} catch {
	session = null; // a Node without inspector: only a cell that awaits can be interrupted
}

function send(kind, payload) {
	const body = typeof payload === 'string' ? Buffer.from(payload) : Buffer.from(payload.buffer);
	const head = Buffer.alloc(HEADER);
	head.writeUInt32BE(body.length, 0);
	head.write(kind, 4, 'latin1');
	socket.cork();
	socket.write(head);
	socket.write(body);
	socket.uncork();
}

let timer = null;

function interrupt() {
	const was = Atomics.compareExchange(shared, STATE, RUNNING, PENDING);
	if (was === IDLE)
		return;
	send('I', '{}');
	if (was !== RUNNING)
		return;
	parentPort.postMessage({ interrupt: true });
	timer = setTimeout(terminate, TURN_MS);
}

// Code that waits for a program which SIGINT found not yet begun: the program is told again.
function nudge(wait_ms) {
	timer = setTimeout(() => {
		process.kill(0, 'SIGINT');
		if (wait_ms < NUDGE_MAX_MS)
			nudge(wait_ms * 4);
	}, wait_ms);
}

function terminate() {
	if (session === null || Atomics.compareExchange(shared, STATE, PENDING, TERMINATING) !== PENDING)
		return;
	nudge(NUDGE_MS);
	session.post('Runtime.terminateExecution', () => {
		clearTimeout(timer);
		Atomics.store(shared, STATE, TERMINATED);
		Atomics.notify(shared, STATE);
		parentPort.postMessage({ terminated: true });
	});
}

function receive(kind, payload) {
	switch (kind) {
	case 'X':
		parentPort.postMessage({ execute: JSON.parse(payload) });
		break;
	case 'C':
		parentPort.postMessage({ begin: JSON.parse(payload) });
		break;
	case 'I':
		interrupt();
		break;
	case 'Y':
		Atomics.store(shared, SYNCED, JSON.parse(payload).sync);
		Atomics.notify(shared, SYNCED);
		break;
	}
}

let chunks = [], held = 0;

socket.on('data', (chunk) => {
	chunks.push(chunk);
	held += chunk.length;
	for (;;) {
		if (held < HEADER)
			return;
		if (chunks[0].length < HEADER)
			chunks = [Buffer.concat(chunks)];
		const size = chunks[0].readUInt32BE(0);
		if (size > FRAME_MAX)
			end();
		if (held < HEADER + size)
			return;
		const all = chunks.length === 1 ? chunks[0] : Buffer.concat(chunks);
		const rest = all.subarray(HEADER + size);
		chunks = rest.length ? [rest] : [];
		held = rest.length;
		receive(String.fromCharCode(all[4]), all.toString('utf8', HEADER, HEADER + size));
	}
});

// execd has gone. The main thread may never look again, so this is said to the whole process.
function end() {
	process.kill(process.pid, 'SIGKILL');
}
socket.on('close', end);
socket.on('error', end);

parentPort.on('message', ({ kind, payload }) => {
	if (kind === 'E' && timer !== null) {
		clearTimeout(timer);
		timer = null;
	}
	send(kind, payload);
});
parentPort.postMessage({ ready: true });
