// SPDX-License-Identifier: GPL-2.0
/*
 * Pages and areas that look lost and are not: no direct-map address of them is anywhere, or none
 * of their beginning. And areas of vmap(), which are lost.
 */
#include <linux/mm.h>
#include <linux/pfn.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "leaklab.h"

#define LEAKLAB_LARGE (64 << 10)
#define LEAKLAB_VMAP_PAGES 4

struct page *leaklab_pool_chain;
static struct page **leaklab_pool_pages;
static u64 *leaklab_pool_ring;
static void **leaklab_pool_buffers;
static void **leaklab_pool_maps;
static struct page **leaklab_mapped_pages;

/* As drbd_pp_pool: the first is in a variable, each knows the next in page->private. */
static int keep_chained(unsigned int count)
{
	struct leaklab_part *part = leaklab_part_begin("pool_chained", count);
	unsigned int i;

	if (!part)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, 0);

		if (!page)
			return -ENOMEM;
		set_page_private(page, (unsigned long)leaklab_pool_chain);
		leaklab_pool_chain = page;
		leaklab_part_add(part, page_address(page));
	}
	leaklab_part_end(part, false, PAGE_SIZE, "-");
	leaklab_pointer(part, "head", &leaklab_pool_chain);
	return 0;
}

/* As receive rings and page pools: an array of struct page pointers. */
static int keep_listed(unsigned int count)
{
	struct leaklab_part *part = leaklab_part_begin("pool_listed", count);
	unsigned int i;

	leaklab_pool_pages = kcalloc(count, sizeof(*leaklab_pool_pages), GFP_KERNEL);
	if (!part || !leaklab_pool_pages)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		leaklab_pool_pages[i] = alloc_pages(GFP_KERNEL | __GFP_ZERO, 2);
		if (!leaklab_pool_pages[i])
			return -ENOMEM;
		leaklab_part_add(part, page_address(leaklab_pool_pages[i]));
	}
	leaklab_part_end(part, false, PAGE_SIZE << 2, "-");
	return 0;
}

/* As a descriptor ring: only the addresses that a device understands. */
static int keep_ring(unsigned int count)
{
	struct leaklab_part *part = leaklab_part_begin("pool_ring", count);
	unsigned int i;

	leaklab_pool_ring = kcalloc(count, sizeof(*leaklab_pool_ring), GFP_KERNEL);
	if (!part || !leaklab_pool_ring)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		struct page *page = alloc_pages(GFP_KERNEL | __GFP_ZERO, 1);

		if (!page)
			return -ENOMEM;
		leaklab_pool_ring[i] = PFN_PHYS(page_to_pfn(page));
		leaklab_part_add(part, page_address(page));
	}
	leaklab_part_end(part, false, PAGE_SIZE << 1, "-");
	return 0;
}

/* Large kmalloc()s that are only known by a place inside. */
static int keep_large(unsigned int count)
{
	struct leaklab_part *part = leaklab_part_begin("pool_large", count);
	unsigned int i;

	leaklab_pool_buffers = kcalloc(count, sizeof(*leaklab_pool_buffers), GFP_KERNEL);
	if (!part || !leaklab_pool_buffers)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		char *buffer = kzalloc(LEAKLAB_LARGE, GFP_KERNEL);

		if (!buffer)
			return -ENOMEM;
		leaklab_part_add(part, buffer);
		leaklab_pool_buffers[i] = buffer + LEAKLAB_LARGE / 2;
	}
	leaklab_part_end(part, false, LEAKLAB_LARGE, "-");
	return 0;
}

/* Areas of vmap() over pages that are held: those of the first part are in use, the others lost. */
static int map_held(unsigned int count)
{
	struct leaklab_part *kept, *lost;
	unsigned int i;

	leaklab_mapped_pages = kcalloc(LEAKLAB_VMAP_PAGES, sizeof(struct page *), GFP_KERNEL);
	leaklab_pool_maps = kcalloc(count, sizeof(*leaklab_pool_maps), GFP_KERNEL);
	if (!leaklab_mapped_pages || !leaklab_pool_maps)
		return -ENOMEM;
	for (i = 0; i < LEAKLAB_VMAP_PAGES; i++) {
		leaklab_mapped_pages[i] = alloc_pages(GFP_KERNEL | __GFP_ZERO, 0);
		if (!leaklab_mapped_pages[i])
			return -ENOMEM;
	}
	kept = leaklab_part_begin("pool_vmap", count);
	if (!kept)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		leaklab_pool_maps[i] =
			vmap(leaklab_mapped_pages, LEAKLAB_VMAP_PAGES, VM_MAP, PAGE_KERNEL);
		if (!leaklab_pool_maps[i])
			return -ENOMEM;
		leaklab_part_add(kept, leaklab_pool_maps[i]);
	}
	leaklab_part_end(kept, false, PAGE_SIZE * LEAKLAB_VMAP_PAGES, "-");
	lost = leaklab_part_begin("vmaps", count);
	if (!lost)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		void *area = vmap(leaklab_mapped_pages, LEAKLAB_VMAP_PAGES, VM_MAP, PAGE_KERNEL);

		if (!area)
			return -ENOMEM;
		leaklab_part_add(lost, area);
	}
	leaklab_part_end(lost, true, PAGE_SIZE * LEAKLAB_VMAP_PAGES, "-");
	return 0;
}

int leaklab_keep_pools(unsigned int count)
{
	int err;

	if (!count)
		return 0;
	err = keep_chained(8 * count);
	err = err ?: keep_listed(count);
	err = err ?: keep_ring(count);
	err = err ?: keep_large(count / 8);
	err = err ?: map_held(count);
	return err;
}
