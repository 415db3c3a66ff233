/*
 * MIME bundles. Besides text/plain (util.inspect) an object may say more, by the conventions of the known
 * JavaScript kernels: [Symbol.for('Jupyter.display')]() returns a bundle, _toMime() too; _toHtml(), _toSvg()
 * and _toPng(), _toJpeg() (bytes or base64) return one form each.
 */
'use strict';
const util = require('util');

const TEXT_MAX = 1 << 20; // characters of a plain form
const BUNDLE_MAX = 16 << 20; // bytes of a bundle
const FORMS = { _toHtml: 'text/html', _toSvg: 'image/svg+xml', _toPng: 'image/png', _toJpeg: 'image/jpeg' };
const MIME = /^[a-z]+\/[\w.+-]+$/;

function shorten(text, limit = TEXT_MAX) {
	return text.length <= limit ? text : `${text.slice(0, limit)}... (${text.length - limit} more characters)`;
}

function isBundle(value) {
	if (value === null || typeof value !== 'object' || ![Object.prototype, null].includes(Object.getPrototypeOf(value)))
		return false;
	const keys = Object.keys(value);
	return keys.length > 0 && keys.every((key) => MIME.test(key));
}

const fits = (value) => (ArrayBuffer.isView(value) ? Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64') : value);

function rich(value) {
	const data = {};
	const add = (bundle) => {
		for (const [mime, form] of Object.entries(bundle || {}))
			if (form !== undefined && form !== null)
				data[mime] = fits(form);
	};
	for (const method of [Symbol.for('Jupyter.display'), '_toMime'])
		if (typeof value[method] === 'function')
			add(value[method]());
	for (const [method, mime] of Object.entries(FORMS))
		if (typeof value[method] === 'function')
			add({ [mime]: value[method]() });
	return data;
}

function bundle(value) {
	const data = {};
	if (value !== null && (typeof value === 'object' || typeof value === 'function')) {
		try {
			Object.assign(data, rich(value));
		} catch (error) {
			console.error(error); // a rich form that fails costs only itself
		}
	}
	if (!('text/plain' in data))
		data['text/plain'] = shorten(util.inspect(value, { maxStringLength: TEXT_MAX }), 2 * TEXT_MAX);
	return data;
}

// JSON that execd accepts: no NUL, no lone surrogate.
function encode(message) {
	const clean = (text) => text.replace(/\0|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, '\ufffd');
	return JSON.stringify(message, (key, value) =>
		typeof value === 'string' ? clean(value) : typeof value === 'bigint' ? String(value) : value);
}

function encodeResult(data) {
	const payload = Buffer.from(encode({ data }));
	if (payload.length <= BUNDLE_MAX)
		return payload;
	return Buffer.from(encode({ data: { 'text/plain': `a result of ${payload.length} bytes is too large; the most is ${BUNDLE_MAX}` } }));
}

module.exports = { bundle, encode, encodeResult, isBundle, shorten };
