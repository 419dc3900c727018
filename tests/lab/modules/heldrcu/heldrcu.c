// SPDX-License-Identifier: GPL-2.0
/*
 * Holds RCU up on kernels whose readers cannot, and let others have their CPU at the same time.
 *
 * Without CONFIG_PREEMPT_RCU a reader that calls cond_resched() is none: the grace period goes on.
 * So its thread is kept from waking up once the leak module's reader is there, as that of a
 * machine whose CPUs are all taken by threads of higher priority.
 */
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(5, 14, 0)
#define __state state
#endif

/* In its own context, asleep and on no list of what is to run: then its state decides who wakes it. */
static bool stop_asleep(struct task_struct *task)
{
	bool stopped = false;

	raw_spin_lock_irq(&task->pi_lock);
	if ((READ_ONCE(task->__state) & TASK_UNINTERRUPTIBLE) && !READ_ONCE(task->on_rq)) {
		WRITE_ONCE(task->__state, __TASK_STOPPED);
		stopped = true;
	}
	raw_spin_unlock_irq(&task->pi_lock);
	return stopped;
}

static struct task_struct *find_thread(const char *comm)
{
	struct task_struct *task, *found = NULL;

	rcu_read_lock();
	for_each_process(task)
		if (!strcmp(task->comm, comm))
			found = task;
	rcu_read_unlock();
	return found;		/* kernel threads that stay for good */
}

static int heldrcu_thread(void *unused)
{
	struct task_struct *rcu = find_thread("rcu_sched");

	while (!find_thread("leaklab_reader"))
		schedule_timeout_idle(1);
	while (rcu && !stop_asleep(rcu))
		schedule_timeout_idle(1);
	pr_info("heldrcu: %s\n", rcu ? "held" : "there is no rcu_sched");
	return 0;
}

static int __init heldrcu_init(void)
{
	return PTR_ERR_OR_ZERO(kthread_run(heldrcu_thread, NULL, "heldrcu"));
}
module_init(heldrcu_init);

MODULE_DESCRIPTION("Holds RCU up where a reader does not");
MODULE_LICENSE("GPL");
