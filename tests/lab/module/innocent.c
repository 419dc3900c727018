// SPDX-License-Identifier: GPL-2.0
/* Memory that looks suspicious and is not: many alike objects in use, or free ones. */
#include <linux/hashtable.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "leaklab.h"

static LIST_HEAD(leaklab_living);

/* The shape and the cache of the leaked nodes, but all on a list in use. */
int leaklab_keep_living(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("living", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_node *node = kmalloc(sizeof(*node), GFP_KERNEL);

		if (!node)
			return -ENOMEM;
		node->owner = leaklab_ctl;
		node->id = i;
		node->pad = 0;
		list_add_tail(&node->link, &leaklab_living);
		leaklab_part_add(part, node);
		cond_resched();
	}
	leaklab_part_end(part, false, sizeof(struct leaklab_node), "kmalloc-32");
	leaklab_pointer(part, "owner", leaklab_ctl);
	leaklab_pointer(part, "head", &leaklab_living);
	return 0;
}

struct leaklab_item {
	struct hlist_node node;
	u32 key;
	u32 size;
	u8 data[];
};

static DEFINE_HASHTABLE(leaklab_hash, 10);

/* No two alike: sizes from 40 to 200 bytes, random content. */
int leaklab_keep_hashed(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("hashed", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		u32 random = get_random_u32();
		u32 size = 40 + random % 161;
		struct leaklab_item *item = kmalloc(size, GFP_KERNEL);

		if (!item)
			return -ENOMEM;
		item->key = random;
		item->size = size;
		get_random_bytes(item->data, size - sizeof(*item));
		hash_add(leaklab_hash, &item->node, item->key);
		leaklab_part_add(part, item);
		cond_resched();
	}
	leaklab_part_end(part, false, 0, "kmalloc-64,kmalloc-96,kmalloc-128,kmalloc-192,kmalloc-256");
	leaklab_pointer(part, "head", leaklab_hash);
	return 0;
}

/* What the sessions of guilty.c point to. */
struct leaklab_payload {
	struct list_head link;
	u64 id;
	char text[72];
};

static LIST_HEAD(leaklab_payloads);

int leaklab_keep_payloads(unsigned int count, void (*seen)(void *arg, void *payload), void *arg)
{
	struct leaklab_part *part = leaklab_part_begin("payloads", count);
	unsigned int i;

	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_payload *payload = kmalloc(sizeof(*payload), GFP_KERNEL);

		if (!payload)
			return -ENOMEM;
		payload->id = i;
		memset(payload->text, 0, sizeof(payload->text));
		snprintf(payload->text, sizeof(payload->text), "payload %u", i);
		list_add_tail(&payload->link, &leaklab_payloads);
		leaklab_part_add(part, payload);
		seen(arg, payload);
		cond_resched();
	}
	leaklab_part_end(part, false, sizeof(struct leaklab_payload), "kmalloc-96");
	leaklab_pointer(part, "head", &leaklab_payloads);
	return 0;
}

static LIST_HEAD(leaklab_freed_kept);

/* A constructor keeps the cache from being merged, and free objects from being overwritten. */
static void leaklab_freed_ctor(void *memory)
{
	memset(memory, 0, sizeof(struct leaklab_node));
}

/*
 * Free objects that still look like leaked ones. The first object of every slab stays in use,
 * so that the slab is not given back with what its free objects hold.
 */
int leaklab_free_most(unsigned int count)
{
	struct leaklab_part *freed, *kept, *all;
	struct page *slab = NULL;
	struct kmem_cache *cache;
	unsigned int i;

	if (!count)
		return 0;
	cache = kmem_cache_create("leaklab_freed", sizeof(struct leaklab_node), 0, 0,
				  leaklab_freed_ctor);
	all = leaklab_part_begin("freed_all", count);
	freed = leaklab_part_begin("freed", count);
	kept = leaklab_part_begin("freed_kept", count);
	if (!cache || !all || !freed || !kept)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_node *node = kmem_cache_alloc(cache, GFP_KERNEL);

		if (!node)
			return -ENOMEM;
		node->owner = leaklab_ctl;
		node->id = i;
		node->pad = 0;
		list_add_tail(&node->link, &leaklab_freed_kept);
		leaklab_part_add(all, node);
	}
	for (i = 0; i < count; i++) {
		struct leaklab_node *node = leaklab_part_get(all, i);

		if (virt_to_head_page(node) != slab) {
			slab = virt_to_head_page(node);
			leaklab_part_add(kept, node);
			continue;
		}
		list_del(&node->link);
		leaklab_part_add(freed, node);
		kmem_cache_free(cache, node);
		cond_resched();
	}
	leaklab_part_end(freed, false, sizeof(struct leaklab_node), "leaklab_freed");
	leaklab_part_end(kept, false, sizeof(struct leaklab_node), "leaklab_freed");
	leaklab_pointer(kept, "head", &leaklab_freed_kept);
	return 0;
}

/* 256 bytes, of which what the entry says is the least. */
struct leaklab_fragment {
	struct list_head link;
	u64 id;
	char text[232];
};

static LIST_HEAD(leaklab_fragments);

static void leaklab_fragment_ctor(void *memory)
{
	memset(memory, 0, sizeof(struct leaklab_fragment));
}

/*
 * A burst that is over: nearly all objects are free again, but the first one of every slab lives
 * on, and keeps the slab. Nothing is lost, and next to nothing of the memory is used.
 */
int leaklab_fragment(unsigned int count)
{
	struct leaklab_fragment *fragment, *next;
	struct leaklab_part *survivors;
	struct page *slab = NULL;
	struct kmem_cache *cache;
	unsigned int i;

	if (!count)
		return 0;
	cache = kmem_cache_create("leaklab_fragment", sizeof(struct leaklab_fragment), 0, 0,
				  leaklab_fragment_ctor);
	survivors = leaklab_part_begin("survivors", count);
	if (!cache || !survivors)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		fragment = kmem_cache_alloc(cache, GFP_KERNEL);
		if (!fragment)
			return -ENOMEM;
		fragment->id = i;
		snprintf(fragment->text, sizeof(fragment->text), "fragment %u", i);
		list_add_tail(&fragment->link, &leaklab_fragments);
		cond_resched();
	}
	list_for_each_entry_safe(fragment, next, &leaklab_fragments, link) {
		if (virt_to_head_page(fragment) != slab) {
			slab = virt_to_head_page(fragment);
			leaklab_part_add(survivors, fragment);
			continue;
		}
		list_del(&fragment->link);
		kmem_cache_free(cache, fragment);
		cond_resched();
	}
	leaklab_part_end(survivors, false, sizeof(struct leaklab_fragment), "leaklab_fragment");
	leaklab_pointer(survivors, "head", &leaklab_fragments);
	leaklab_pointer(survivors, "cache", cache);
	return 0;
}
