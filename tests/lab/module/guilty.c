// SPDX-License-Identifier: GPL-2.0
/* The leaks. Each is modelled on one that happens: see the comment at each function. */
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "leaklab.h"

/* Empty at all times when seen from outside: what is added is deleted at once. */
static LIST_HEAD(leaklab_inflight);
static unsigned int next_node_id;

/* Unlinked from the list of work in flight, and the kfree() forgotten on the error path. */
int leaklab_leak_nodes(const char *name, unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin(name, count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_node *node = kmalloc(sizeof(*node), GFP_KERNEL);

		if (!node)
			return -ENOMEM;
		node->owner = leaklab_ctl;
		node->id = next_node_id++;
		node->pad = 0;
		list_add(&node->link, &leaklab_inflight);
		list_del(&node->link);
		leaklab_part_add(part, node);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_node), "kmalloc-32");
	leaklab_pointer(part, "owner", leaklab_ctl);
	leaklab_pointer(part, "ops", &leaklab_ops);
	return 0;
}

struct leaklab_obj {
	char magic[16];
	struct list_head link;		/* as the constructor left it: points to itself */
	u64 serial;
	char text[80];
};

static void leaklab_obj_ctor(void *memory)
{
	struct leaklab_obj *obj = memory;

	memset(obj, 0, sizeof(*obj));
	strscpy(obj->magic, "LEAKLAB-OBJECT!", sizeof(obj->magic));
	INIT_LIST_HEAD(&obj->link);
}

/* A cache of the module's own, whose objects are never given back. */
int leaklab_leak_private(unsigned int count)
{
	struct leaklab_part *part;
	struct kmem_cache *cache;
	unsigned int i;

	if (!count)
		return 0;
	cache = kmem_cache_create("leaklab_obj", sizeof(struct leaklab_obj), 0, 0,
				  leaklab_obj_ctor);
	part = leaklab_part_begin("private", count);
	if (!cache || !part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_obj *obj = kmem_cache_alloc(cache, GFP_KERNEL);

		if (!obj)
			return -ENOMEM;
		obj->serial = i;
		snprintf(obj->text, sizeof(obj->text), "private object %u", i);
		leaklab_part_add(part, obj);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_obj), "leaklab_obj");
	leaklab_pointer(part, "cache", cache);
	return 0;
}

static int leaklab_short_life(void *data)
{
	return 0;
}

/* get_task_struct() without put_task_struct(): the thread exits, its task_struct stays. */
int leaklab_leak_tasks(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("tasks", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct task_struct *task = kthread_create(leaklab_short_life, NULL,
							  "leaked/%u", i);

		if (IS_ERR(task))
			return PTR_ERR(task);
		get_task_struct(task);		/* the reference that is lost */
		get_task_struct(task);		/* ours, across its exit */
		wake_up_process(task);
		kthread_stop(task);		/* waits for the exit */
		leaklab_part_add(part, task);
		put_task_struct(task);
	}
	leaklab_part_end(part, true, 0, "task_struct");
	return 0;
}

struct leaklab_link {
	u64 magic;
	u32 chain;
	u32 position;
	struct list_head ring;
	char text[56];
};

#define LINK_MAGIC 0x214b4e494c42414cULL	/* "LABLINK!" */

/* A structure whose only owner went away: each object is pointed to, none is reachable. */
int leaklab_leak_chains(unsigned int chains, unsigned int length)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!chains || !length)
		return 0;
	part = leaklab_part_begin("chain", chains * length);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < chains * length; i++) {
		struct leaklab_link *link = kmalloc(sizeof(*link), GFP_KERNEL);

		if (!link)
			return -ENOMEM;
		memset(link, 0, sizeof(*link));
		link->magic = LINK_MAGIC;
		link->chain = i / length;
		link->position = i % length;
		snprintf(link->text, sizeof(link->text), "link %u of chain %u", link->position,
			 link->chain);
		INIT_LIST_HEAD(&link->ring);
		if (link->position) {
			struct leaklab_link *before = leaklab_part_get(part, part->count - 1);

			list_add(&link->ring, &before->ring);
		}
		leaklab_part_add(part, link);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_link), "kmalloc-96");
	return 0;
}

static void fill_with_text(char *memory, size_t size, const char *kind, unsigned int i)
{
	char line[65];
	size_t at;

	/* 64 characters a line, so that every line starts at the same place of its page. */
	snprintf(line, sizeof(line), "LEAKLAB %-8s %010u %-36s.......\n", kind, i,
		 "nobody will ever read this again");
	for (at = 0; at + 64 <= size; at += 64)
		memcpy(memory + at, line, 64);
}

/* Buffers from vmalloc(): no object cache shows them, only /proc/vmallocinfo. */
int leaklab_leak_vmallocs(unsigned int count, unsigned int size)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count || !size)
		return 0;
	part = leaklab_part_begin("vmalloc", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		void *area = vmalloc(size);

		if (!area)
			return -ENOMEM;
		fill_with_text(area, size, "vmalloc", i);
		leaklab_part_add(part, area);
		cond_resched();
	}
	leaklab_part_end(part, true, size, "-");
	return 0;
}

/* Pages straight from the page allocator: no statistic counts them at all. */
int leaklab_leak_pages(unsigned int per_order)
{
	static const char * const names[] = { "pages0", "pages1", "pages2", "pages3" };
	unsigned int order, i;

	if (!per_order)
		return 0;
	for (order = 0; order < ARRAY_SIZE(names); order++) {
		struct leaklab_part *part = leaklab_part_begin(names[order], per_order);

		if (!part)
			return -ENOMEM;
		for (i = 0; i < per_order; i++) {
			struct page *page = alloc_pages(GFP_KERNEL, order);

			if (!page)
				return -ENOMEM;
			fill_with_text(page_address(page), PAGE_SIZE << order, names[order], i);
			leaklab_part_add(part, page_address(page));
			cond_resched();
		}
		leaklab_part_end(part, true, PAGE_SIZE << order, "-");
	}
	return 0;
}

/* 64 bytes: no two have a pointer in common, so no two are equal. */
struct leaklab_session {
	u64 magic;
	void *payload;
	void *peer;
	char *cursor;
	u32 id;
	u32 state;
	u32 sent;
	u32 received;
	char name[16];
};

#define SESSION_MAGIC 0x4e4f495353455321ULL	/* "!SESSION" */

/* 56 bytes of the same cache. */
struct leaklab_request {
	struct list_head link;
	void (*complete)(void *request, int status);
	u64 deadline;
	u32 opcode;
	u32 tag;
	s32 status;
	u32 retries;
	u32 length;
	u32 flags;
};

struct twin {
	struct leaklab_part *sessions;
	struct leaklab_part *requests;
	unsigned int nr_sessions;
	unsigned int nr_requests;
	void *peer;
	int err;
};

static noinline int leak_session(struct twin *twin, char *payload, unsigned int i)
{
	struct leaklab_session *session = kmalloc(sizeof(*session), GFP_KERNEL);

	if (!session)
		return -ENOMEM;
	session->magic = SESSION_MAGIC;
	session->payload = payload;
	session->peer = twin->peer ?: payload;
	session->cursor = payload + 24 + i % 64;
	session->id = i;
	session->state = 3;
	session->sent = i * 1448;
	session->received = i % 977;
	memset(session->name, 0, sizeof(session->name));
	snprintf(session->name, sizeof(session->name), "sess-%u", i);
	leaklab_part_add(twin->sessions, session);
	twin->peer = payload;
	return 0;
}

static noinline int leak_request(struct twin *twin, unsigned int i)
{
	struct leaklab_request *request = kmalloc(sizeof(*request), GFP_KERNEL);

	if (!request)
		return -ENOMEM;
	memset(request, 0, sizeof(*request));
	request->complete = leaklab_ops.complete;
	request->deadline = 5000 + i;
	request->opcode = 0x2a;
	request->tag = i;
	request->status = -110;
	request->length = 512 << (i % 4);
	list_add(&request->link, &leaklab_inflight);
	list_del(&request->link);
	leaklab_part_add(twin->requests, request);
	return 0;
}

/* Called for each living payload: a session for it, and requests in between, evenly. */
static void leak_twins(void *arg, void *payload)
{
	struct twin *twin = arg;
	unsigned int i = twin->sessions->count;
	u64 due = (u64)(i + 1) * twin->nr_requests;

	if (twin->err)
		return;
	twin->err = leak_session(twin, payload, i);
	while (!twin->err && (u64)twin->requests->count * twin->nr_sessions < due)
		twin->err = leak_request(twin, twin->requests->count);
}

/* Two leaks in one cache, mixed in every slab; the larger one has no two equal objects. */
int leaklab_leak_twin(unsigned int sessions, unsigned int requests)
{
	struct twin twin = { .nr_sessions = sessions, .nr_requests = requests };
	int err;

	if (!sessions || !requests)
		return 0;
	twin.sessions = leaklab_part_begin("sessions", sessions);
	twin.requests = leaklab_part_begin("requests", requests);
	if (!twin.sessions || !twin.requests)
		return -ENOMEM;
	err = leaklab_keep_payloads(sessions, leak_twins, &twin);
	if (err || twin.err)
		return err ?: twin.err;
	leaklab_part_end(twin.sessions, true, sizeof(struct leaklab_session), "kmalloc-64");
	leaklab_part_end(twin.requests, true, sizeof(struct leaklab_request), "kmalloc-64");
	leaklab_pointer(twin.requests, "complete", leaklab_ops.complete);
	return 0;
}

struct leaklab_message {
	struct list_head queue;
	u64 sequence;
	char header[64];
	u8 data[312];
};

/* Not lost but never drained either: every message is reachable from this list. */
static LIST_HEAD(leaklab_ipmi_waiting);

int leaklab_queue_messages(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("messages", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_message *message = kmalloc(sizeof(*message), GFP_KERNEL);

		if (!message)
			return -ENOMEM;
		memset(message, 0, sizeof(*message));
		message->sequence = i;
		snprintf(message->header, sizeof(message->header),
			 "IPMI message %u netfn 0x0a cmd 0x48", i);
		memset(message->data, 0x20 + i % 64, 40);
		list_add_tail(&message->queue, &leaklab_ipmi_waiting);
		leaklab_part_add(part, message);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_message), "kmalloc-512");
	leaklab_pointer(part, "head", &leaklab_ipmi_waiting);
	return 0;
}
