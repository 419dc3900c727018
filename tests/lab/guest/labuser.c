// SPDX-License-Identifier: GPL-2.0
/*
 * What user space does to a machine's memory: `labuser WHAT COUNT [FILE]`, one thing a process.
 *
 * Prints a line when it has done it. What only lives as long as its process is held from then on;
 * `fill` and `names` end. Any failure ends it without that line.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1UL << 20)
#define HUGE_PAGE (2 * MIB)

static char *map(size_t size, int flags)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (memory == MAP_FAILED)
		err(1, "mmap of %zu bytes", size);
	return memory;
}

/* Every page differs, and none is zero. */
static void write_text(char *memory, size_t size)
{
	for (size_t at = 0; at < size; at += 64)
		snprintf(memory + at, 64, "labuser keeps line %zu of %zu", at / 64, size / 64);
}

static void hold(void)
{
	if (puts("held") < 0 || fclose(stdout))
		err(1, "stdout");
	for (;;)
		pause();
}

static void eat_memory(size_t mib)
{
	write_text(map(mib * MIB, 0), mib * MIB);
	hold();
}

/*
 * A page table of 4 KiB for every 2 MiB of which one page is read: all those reads are of the one
 * page of zeros, so the process hardly has any memory of its own.
 */
static void eat_page_tables(size_t mib)
{
	size_t size = mib * (MIB / 4096) * HUGE_PAGE;
	char *memory = map(size, MAP_NORESERVE);

	if (madvise(memory, size, MADV_NOHUGEPAGE))
		err(1, "madvise");
	for (size_t at = 0; at < size; at += HUGE_PAGE)
		(void)*(volatile char *)(memory + at);
	hold();
}

static void use_huge_pages(size_t count)
{
	write_text(map(count * HUGE_PAGE, MAP_HUGETLB), count * HUGE_PAGE);
	hold();
}

static void fill_file(size_t mib, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	char *content = map(MIB, 0);

	if (fd < 0)
		err(1, "%s", path);
	for (size_t i = 0; i < mib; i++) {
		write_text(content, MIB);
		if (write(fd, content, MIB) != (ssize_t)MIB)
			err(1, "%s", path);
	}
	if (close(fd))
		err(1, "%s", path);
	puts("filled");
}

/* Names that do not exist: sysfs keeps a negative dentry of each, tmpfs would forget them. */
static void ask_names(size_t count)
{
	char path[64];

	for (size_t i = 0; i < count; i++) {
		snprintf(path, sizeof(path), "/sys/kernel/absent-%zu", i);
		if (access(path, F_OK) == 0)
			errx(1, "%s exists", path);
	}
	puts("asked");
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	size_t count = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;

	if (!strcmp(what, "memory"))
		eat_memory(count);
	else if (!strcmp(what, "pagetables"))
		eat_page_tables(count);
	else if (!strcmp(what, "hugetlb"))
		use_huge_pages(count);
	else if (!strcmp(what, "names"))
		ask_names(count);
	else if (!strcmp(what, "fill") && argc == 4)
		fill_file(count, argv[3]);
	else
		errx(2, "usage: labuser memory|pagetables|hugetlb|names COUNT, labuser fill MIB FILE");
	return 0;
}
