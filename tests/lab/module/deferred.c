// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that is neither lost nor in use: given to RCU, whose grace period a reader holds up.
 *
 * Made in two steps: leaklab_make_deferred() allocates, leaklab_defer_frees() starts the reader
 * and lets go. In between the address tables can be read and given back, which itself needs RCU.
 */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/kthread.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "leaklab.h"

/* 64 bytes: freed by a callback, so call_rcu() keeps it on rcu_data.cblist. */
struct leaklab_event {
	struct list_head link;
	struct rcu_head rcu;
	struct leaklab_control *owner;
	u64 id;
	char name[16];
};

/* 128 bytes: kfree_rcu() keeps it in kfree_rcu_cpu, in page-sized batches or on a list. */
struct leaklab_route {
	struct list_head link;
	struct rcu_head rcu;
	struct leaklab_control *owner;
	u64 id;
	char text[80];
};

static LIST_HEAD(leaklab_events);
static LIST_HEAD(leaklab_routes);

static noinline int make_events(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("rcu_calls", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_event *event = kzalloc(sizeof(*event), GFP_KERNEL);

		if (!event)
			return -ENOMEM;
		event->owner = leaklab_ctl;
		event->id = i;
		snprintf(event->name, sizeof(event->name), "event %u", i);
		list_add_tail(&event->link, &leaklab_events);
		leaklab_part_add(part, event);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_event), "kmalloc-64");
	return 0;
}

static noinline int make_routes(unsigned int count)
{
	struct leaklab_part *part;
	unsigned int i;

	if (!count)
		return 0;
	part = leaklab_part_begin("rcu_frees", count);
	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct leaklab_route *route = kzalloc(sizeof(*route), GFP_KERNEL);

		if (!route)
			return -ENOMEM;
		route->owner = leaklab_ctl;
		route->id = i;
		snprintf(route->text, sizeof(route->text), "route %u to nowhere", i);
		list_add_tail(&route->link, &leaklab_routes);
		leaklab_part_add(part, route);
		cond_resched();
	}
	leaklab_part_end(part, true, sizeof(struct leaklab_route), "kmalloc-128");
	return 0;
}

int leaklab_make_deferred(unsigned int calls, unsigned int frees)
{
	return make_events(calls) ?: make_routes(frees);
}

static void leaklab_event_free(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct leaklab_event, rcu));
}

/* Never leaves its read-side critical section, but lets others have its CPU. */
static int leaklab_reader(void *data)
{
	struct completion *inside = data;

	set_user_nice(current, MAX_NICE);
	rcu_read_lock();
	complete(inside);
	while (!kthread_should_stop()) {
		cpu_relax();
		cond_resched();
	}
	rcu_read_unlock();
	return 0;
}

static int start_reader(void)
{
	DECLARE_COMPLETION_ONSTACK(inside);
	struct task_struct *reader;

	reader = kthread_create(leaklab_reader, &inside, "leaklab_reader");
	if (IS_ERR(reader))
		return PTR_ERR(reader);
	kthread_bind(reader, cpumask_last(cpu_online_mask));
	wake_up_process(reader);
	wait_for_completion(&inside);
	return 0;
}

/* Unlinked and given to RCU as it should be; nothing of it is freed while the reader reads. */
int leaklab_defer_frees(void)
{
	struct leaklab_event *event, *next_event;
	struct leaklab_route *route, *next_route;
	int err = start_reader();

	if (err)
		return err;
	list_for_each_entry_safe(event, next_event, &leaklab_events, link) {
		list_del_rcu(&event->link);
		call_rcu(&event->rcu, leaklab_event_free);
		cond_resched();
	}
	list_for_each_entry_safe(route, next_route, &leaklab_routes, link) {
		list_del_rcu(&route->link);
		kfree_rcu(route, rcu);
		cond_resched();
	}
	return 0;
}
