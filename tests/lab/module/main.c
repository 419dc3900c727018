// SPDX-License-Identifier: GPL-2.0
/* Parameters, and the thread that makes what they ask for, then wipes its stack and exits. */
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "leaklab.h"

#define COUNT(name, value, text)					\
	static unsigned int name = value;				\
	module_param(name, uint, 0444);					\
	MODULE_PARM_DESC(name, text)

COUNT(nodes, 0, "32-byte nodes: unlinked from their list, never freed");
COUNT(nodes_later, 0, "more of them, when \"grow\" is written");
COUNT(private, 0, "objects of a cache with a constructor, never freed");
COUNT(tasks, 0, "exited threads with one task_struct reference too many");
COUNT(messages, 0, "messages on a queue that nobody drains");
COUNT(chains, 0, "rings of objects that only point to each other");
COUNT(chain_length, 200, "objects in each ring");
COUNT(vmallocs, 0, "vmalloc areas, never freed");
COUNT(vmalloc_size, 65536, "bytes of each area");
COUNT(pages, 0, "page blocks of each order from 0 to 3, never freed");
COUNT(sessions, 0, "64-byte sessions, never freed, with pointers that all differ");
COUNT(requests, 0, "64-byte requests, unlinked, never freed, between the sessions");
COUNT(living, 0, "innocent: 32-byte entries on a list in use");
COUNT(hashed, 0, "innocent: random objects of all sizes in a hash table");
COUNT(freed, 0, "innocent: objects that were freed and left their content behind");
COUNT(pools, 0, "innocent: pages without any pointer to them; and as many lost areas of vmap()");
COUNT(leases, 0, "64-byte leases, never freed, 100 a second, and as many living clients");
COUNT(packets, 300, "64-byte packets that come and go between one lease and the next");
COUNT(fragments, 0, "objects of a cache that are freed again, all but one in each slab");
COUNT(rcu_calls, 0, "objects for call_rcu() when \"defer\" is written");
COUNT(rcu_frees, 0, "objects for kfree_rcu() when \"defer\" is written");

struct leaklab_control *leaklab_ctl;

static int ops_open(struct leaklab_control *ctl)
{
	ctl->statistics[0]++;
	return 0;
}

static void ops_release(struct leaklab_control *ctl)
{
	ctl->statistics[1]++;
}

static void ops_complete(void *request, int status)
{
}

const struct leaklab_ops leaklab_ops = {
	.open = ops_open,
	.release = ops_release,
	.complete = ops_complete,
};

/* Overwrite what the calls before left below the caller's frame. */
static noinline void wipe_stack(unsigned int depth)
{
	char frame[1024];

	memset(frame, 0, sizeof(frame));
	if (depth)
		wipe_stack(depth - 1);
	/* Keeps the buffer, and keeps the call above from becoming a jump. */
	OPTIMIZER_HIDE_VAR(depth);
	barrier_data(frame);
}

static noinline int make_everything(void)
{
	int err;

	err = leaklab_leak_nodes("nodes", nodes);
	err = err ?: leaklab_keep_living(living);
	err = err ?: leaklab_leak_private(private);
	err = err ?: leaklab_leak_tasks(tasks);
	err = err ?: leaklab_queue_messages(messages);
	err = err ?: leaklab_leak_chains(chains, chain_length);
	err = err ?: leaklab_leak_vmallocs(vmallocs, vmalloc_size);
	err = err ?: leaklab_leak_pages(pages);
	err = err ?: leaklab_leak_twin(sessions, requests);
	err = err ?: leaklab_keep_hashed(hashed);
	err = err ?: leaklab_free_most(freed);
	err = err ?: leaklab_fragment(fragments);
	err = err ?: leaklab_keep_pools(pools);
	err = err ?: leaklab_make_deferred(rcu_calls, rcu_frees);
	err = err ?: leaklab_run_traffic(leases, packets);
	return err;
}

static noinline int make_more(void)
{
	return leaklab_tables_create() ?: leaklab_leak_nodes("nodes_later", nodes_later);
}

struct job {
	int (*make)(void);
	struct completion done;
	int err;
};

static int leaklab_thread(void *data)
{
	struct job *job = data;

	/* One CPU, so that objects made in a row come from one slab after the other. */
	set_cpus_allowed_ptr(current, cpumask_of(0));
	job->err = job->make();
	wipe_stack(10);
	complete(&job->done);
	return 0;
}

static int run_job(int (*make)(void))
{
	struct job job = { .make = make };
	struct task_struct *thread;

	init_completion(&job.done);
	thread = kthread_run(leaklab_thread, &job, "leaklab");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	/* @job is on this stack: only a completed wait may leave it. */
	wait_for_completion(&job.done);
	pr_info("leaklab: done=%d\n", job.err);
	return job.err;
}

static int leaklab_release(const char *value, const struct kernel_param *parameter)
{
	leaklab_tables_release();
	/* What was freed through RCU is free now, not some time after the dump. */
	rcu_barrier();
	return 0;
}

static const struct kernel_param_ops release_ops = {
	.set = leaklab_release,
};
module_param_cb(release, &release_ops, NULL, 0200);
MODULE_PARM_DESC(release, "write anything: give the address tables back");

static int leaklab_grow(const char *value, const struct kernel_param *parameter)
{
	return run_job(make_more);
}

static const struct kernel_param_ops grow_ops = {
	.set = leaklab_grow,
};
module_param_cb(grow, &grow_ops, NULL, 0200);
MODULE_PARM_DESC(grow, "write anything, after \"release\": leak on");

static int leaklab_defer(const char *value, const struct kernel_param *parameter)
{
	return leaklab_defer_frees();
}

static const struct kernel_param_ops defer_ops = {
	.set = leaklab_defer,
};
module_param_cb(defer, &defer_ops, NULL, 0200);
MODULE_PARM_DESC(defer, "write anything, after \"release\": hold RCU up and free through it");

static int __init leaklab_init(void)
{
	int err = leaklab_tables_create();

	if (err)
		return err;
	leaklab_ctl = kzalloc(sizeof(*leaklab_ctl), GFP_KERNEL);
	if (!leaklab_ctl)
		return -ENOMEM;
	leaklab_ctl->ops = &leaklab_ops;
	INIT_LIST_HEAD(&leaklab_ctl->clients);
	strscpy(leaklab_ctl->name, "leaklab control", sizeof(leaklab_ctl->name));
	return run_job(make_everything);
}
module_init(leaklab_init);

/* No module_exit: the memory cannot be given back. */
MODULE_DESCRIPTION("Loses memory on purpose, to test leak finders");
MODULE_LICENSE("GPL");
