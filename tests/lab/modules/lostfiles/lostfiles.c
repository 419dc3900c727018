// SPDX-License-Identifier: GPL-2.0
/* Takes a second reference to each file that it opens, and gives back one of the two only. */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched.h>

#define FILES 20000

static int __init lostfiles_init(void)
{
	unsigned int i;

	for (i = 0; i < FILES; i++) {
		struct file *file = filp_open("/init", O_RDONLY, 0);

		if (IS_ERR(file))
			return PTR_ERR(file);
		get_file(file);		/* the reference that is lost */
		filp_close(file, NULL);
		cond_resched();
	}
	pr_info("lostfiles: %u files\n", i);
	return 0;
}
module_init(lostfiles_init);

MODULE_DESCRIPTION("Loses files");
MODULE_LICENSE("GPL");
