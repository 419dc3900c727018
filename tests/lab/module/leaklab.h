/* SPDX-License-Identifier: GPL-2.0 */
/*
 * leaklab: a module that loses memory on purpose, and says exactly what it lost.
 *
 * Nothing in the module may keep a plain pointer to a leaked object: a dump is searched for
 * such pointers later. Addresses are kept masked (table.c), and the stack of the thread that
 * did the leaking is wiped (main.c).
 */
#ifndef LEAKLAB_H
#define LEAKLAB_H

#include <linux/debugfs.h>
#include <linux/list.h>
#include <linux/types.h>

struct leaklab_control;

struct leaklab_ops {
	int (*open)(struct leaklab_control *ctl);
	void (*release)(struct leaklab_control *ctl);
	void (*complete)(void *request, int status);
};

/* The one living object that every node points to; kmalloc-256. */
struct leaklab_control {
	const struct leaklab_ops *ops;
	struct list_head clients;
	char name[32];
	u64 statistics[22];
};

/* 32 bytes; also the shape of the innocent entries of innocent.c. */
struct leaklab_node {
	struct leaklab_control *owner;
	struct list_head link;
	u32 id;
	u32 pad;
};

extern struct leaklab_control *leaklab_ctl;
extern const struct leaklab_ops leaklab_ops;

/* One set of alike allocations, and the masked table of their addresses. */
struct leaklab_part {
	const char *name;
	u64 *masked;
	unsigned int count;
	unsigned int capacity;
	struct debugfs_blob_wrapper blob;
};

int leaklab_tables_create(void);
void leaklab_tables_release(void);
struct leaklab_part *leaklab_part_begin(const char *name, unsigned int capacity);
void leaklab_part_add(struct leaklab_part *part, const void *address);
void *leaklab_part_get(const struct leaklab_part *part, unsigned int index);
void leaklab_part_end(struct leaklab_part *part, bool guilty, size_t size, const char *cache);
void leaklab_pointer(const struct leaklab_part *part, const char *name, const void *address);

/* Each makes its share of memory, and returns 0 or a negative error. */
int leaklab_leak_nodes(const char *name, unsigned int count);
int leaklab_leak_private(unsigned int count);
int leaklab_leak_tasks(unsigned int count);
int leaklab_leak_chains(unsigned int chains, unsigned int length);
int leaklab_leak_vmallocs(unsigned int count, unsigned int size);
int leaklab_leak_pages(unsigned int per_order);
int leaklab_leak_twin(unsigned int sessions, unsigned int requests);
int leaklab_queue_messages(unsigned int count);

/* Both: leaks, and keeps others, among traffic. */
int leaklab_run_traffic(unsigned int leases, unsigned int packets);

int leaklab_keep_living(unsigned int count);
int leaklab_keep_hashed(unsigned int count);
int leaklab_keep_payloads(unsigned int count, void (*seen)(void *arg, void *payload), void *arg);
int leaklab_free_most(unsigned int count);
int leaklab_fragment(unsigned int count);
int leaklab_keep_pools(unsigned int count);

int leaklab_make_deferred(unsigned int calls, unsigned int frees);
int leaklab_defer_frees(void);

#endif
