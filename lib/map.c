/*
 * map.c - chained hash table of borrowed nodes, one owner at a time.
 *
 * SipHash-1-3 with a seed drawn once per process: a peer that chooses keys
 * cannot choose their buckets. The table doubles when it holds as many nodes as
 * buckets; when that memory is not to be had it goes on with longer chains.
 */
#include "lib/map.h"

#include <pthread.h>
#include <string.h>

#include "lib/random.h"

#define MAP_FIRST_BUCKETS 16

static uint64_t seed[2];
static pthread_once_t seed_once = PTHREAD_ONCE_INIT;

static void seed_draw(void)
{
	random_bytes(seed, sizeof(seed));
}

static inline uint64_t rotl(uint64_t x, int b)
{
	return (x << b) | (x >> (64 - b));
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

static uint32_t hash_string(const char *s)
{
	uint64_t v[4], m;
	size_t n = strlen(s), left = n;

	(void)pthread_once(&seed_once, seed_draw);
	v[0] = seed[0] ^ 0x736f6d6570736575ULL;
	v[1] = seed[1] ^ 0x646f72616e646f6dULL;
	v[2] = seed[0] ^ 0x6c7967656e657261ULL;
	v[3] = seed[1] ^ 0x7465646279746573ULL;
	for (; left >= 8; left -= 8, s += 8) {
		memcpy(&m, s, 8);
		v[3] ^= m;
		sip_round(v);
		v[0] ^= m;
	}
	m = (uint64_t)n << 56;
	for (size_t i = 0; i < left; i++)
		m |= (uint64_t)(unsigned char)s[i] << (8 * i);
	v[3] ^= m;
	sip_round(v);
	v[0] ^= m;
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	m = v[0] ^ v[1] ^ v[2] ^ v[3];
	return (uint32_t)(m ^ (m >> 32));
}

void map_done(struct map *m)
{
	free(m->buckets);
	*m = (struct map){};
}

void map_clear(struct map *m, void (*free_object)(struct map_node *node))
{
	for (size_t i = 0; i < m->buckets_n; i++)
		for (struct map_node *node = m->buckets[i], *next; node; node = next) {
			next = node->next;
			free_object(node);
		}
	map_done(m);
}

static int map_grow(struct map *m)
{
	size_t n = m->buckets_n ? m->buckets_n * 2 : MAP_FIRST_BUCKETS;
	struct map_node **buckets = calloc(n, sizeof(*buckets));

	if (!buckets)
		return m->buckets ? 0 : -ENOMEM;
	for (size_t i = 0; i < m->buckets_n; i++) {
		struct map_node *node = m->buckets[i];

		while (node) {
			struct map_node *next = node->next, **slot = &buckets[node->hash & (n - 1)];

			node->next = *slot;
			*slot = node;
			node = next;
		}
	}
	free(m->buckets);
	m->buckets = buckets;
	m->buckets_n = n;
	return 0;
}

static struct map_node *map_find(const struct map *m, uint32_t hash, const char *key)
{
	struct map_node *node;

	if (!m->buckets)
		return NULL;
	for (node = m->buckets[hash & (m->buckets_n - 1)]; node; node = node->next)
		if (node->hash == hash && strcmp(node->key, key) == 0)
			return node;
	return NULL;
}

int map_add(struct map *m, struct map_node *node, const char *key)
{
	uint32_t hash = hash_string(key);
	struct map_node **slot;

	if (map_find(m, hash, key))
		return -EEXIST;
	if (m->len >= m->buckets_n && map_grow(m) < 0)
		return -ENOMEM;
	slot = &m->buckets[hash & (m->buckets_n - 1)];
	*node = (struct map_node){.next = *slot, .key = key, .hash = hash};
	*slot = node;
	m->len++;
	return 0;
}

struct map_node *map_get(const struct map *m, const char *key)
{
	return m->len ? map_find(m, hash_string(key), key) : NULL;
}

void map_del(struct map *m, struct map_node *node)
{
	if (!m->buckets)
		return;
	for (struct map_node **slot = &m->buckets[node->hash & (m->buckets_n - 1)]; *slot;
	     slot = &(*slot)->next) {
		if (*slot != node)
			continue;
		*slot = node->next;
		*node = (struct map_node){};
		m->len--;
		return;
	}
}
