/* The examples of FIPS 180-4 and every length around a block's end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "lib/sha256.h"

static void is(const char *text, const char *expected)
{
	char hex[SHA256_HEX_MAX];
	struct sha256 s;

	sha256_init(&s);
	sha256_add(&s, text, strlen(text));
	assert_string_equal(sha256_end_hex(&s, hex), expected);
}

static void test_examples(void **state)
{
	(void)state;
	is("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	is("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	is("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
	   "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* Digests of 'a' x 55, 56, 63, 64, 65 by sha256sum, taken in one piece and byte by byte. */
static void test_lengths(void **state)
{
	static const struct {
		size_t n;
		const char *hex;
	} rows[] = {
		{55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318"},
		{56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a"},
		{63, "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"},
		{64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
		{65, "635361c48bb9eab14198e76ea8ab7f1a41685d6ad62aa9146d301d4f17eb0ae0"},
	};
	char text[65], hex[SHA256_HEX_MAX];
	struct sha256 s;

	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		sha256_init(&s);
		sha256_add(&s, text, rows[i].n);
		assert_string_equal(sha256_end_hex(&s, hex), rows[i].hex);
		sha256_init(&s);
		for (size_t k = 0; k < rows[i].n; k++)
			sha256_add(&s, "a", 1);
		assert_string_equal(sha256_end_hex(&s, hex), rows[i].hex);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_examples),
		cmocka_unit_test(test_lengths),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
