// SPDX-License-Identifier: GPL-2.0
/*
 * A slow leak under busy, balanced traffic in the same cache, for allocation traces.
 *
 * Each kind of object has functions of its own, which must not be inlined: a trace names them.
 */
#include <linux/jiffies.h>
#include <linux/list.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "leaklab.h"

#define LEASES_PER_SECOND 100
#define IN_FLIGHT 64

/* 64 bytes: taken off the list of leases when it expires, and then forgotten. */
struct leaklab_lease {
	struct leaklab_control *owner;
	struct list_head link;
	void (*expire)(void *request, int status);
	u64 granted;
	u32 id;
	u32 state;
	char holder[16];
};

/* 64 bytes: stays on the list of clients for good. */
struct leaklab_client {
	struct list_head link;
	char name[48];
};

static LIST_HEAD(leaklab_leases);
static LIST_HEAD(leaklab_clients);
static u8 *leaklab_packets[IN_FLIGHT];

static noinline struct leaklab_lease *leaklab_lease_grant(unsigned int id)
{
	struct leaklab_lease *lease = kmalloc(sizeof(*lease), GFP_KERNEL);

	if (!lease)
		return NULL;
	lease->owner = leaklab_ctl;
	lease->expire = leaklab_ops.complete;
	lease->granted = jiffies;
	lease->id = id;
	lease->state = 3;
	memset(lease->holder, 0, sizeof(lease->holder));
	snprintf(lease->holder, sizeof(lease->holder), "holder-%u", id);
	list_add(&lease->link, &leaklab_leases);
	return lease;
}

/* Where the kfree() is missing. */
static noinline void leaklab_lease_expire(struct leaklab_lease *lease)
{
	list_del(&lease->link);
	lease->state = 0;
}

static noinline struct leaklab_client *leaklab_client_join(unsigned int id)
{
	struct leaklab_client *client = kmalloc(sizeof(*client), GFP_KERNEL);

	if (!client)
		return NULL;
	memset(client->name, 0, sizeof(client->name));
	snprintf(client->name, sizeof(client->name), "client %u of the living", id);
	list_add_tail(&client->link, &leaklab_clients);
	return client;
}

static noinline u8 *leaklab_packet_get(void)
{
	u8 *packet = kmalloc(64, GFP_KERNEL);

	if (packet)
		memset(packet, 0x40 + get_random_u32() % 32, 64);
	return packet;
}

static noinline void leaklab_packet_put(u8 *packet)
{
	kfree(packet);
}

/* @count packets come, and as many go: the oldest of those in flight. */
static noinline void leaklab_packets_forward(unsigned int count)
{
	static unsigned int slot;

	while (count--) {
		leaklab_packet_put(leaklab_packets[slot]);
		leaklab_packets[slot] = leaklab_packet_get();
		slot = (slot + 1) % IN_FLIGHT;
		cond_resched();
	}
}

static void packets_drain(void)
{
	unsigned int i;

	for (i = 0; i < IN_FLIGHT; i++) {
		leaklab_packet_put(leaklab_packets[i]);
		leaklab_packets[i] = NULL;
	}
}

/* A lease and a client a tick, and @packets packets in between, LEASES_PER_SECOND times a second. */
int leaklab_run_traffic(unsigned int leases, unsigned int packets)
{
	struct leaklab_part *leaked, *living;
	unsigned long start = jiffies;
	unsigned int i;

	if (!leases)
		return 0;
	leaked = leaklab_part_begin("leases", leases);
	living = leaklab_part_begin("clients", leases);
	if (!leaked || !living)
		return -ENOMEM;
	for (i = 0; i < leases; i++) {
		unsigned long due = start + (unsigned long)i * HZ / LEASES_PER_SECOND;
		struct leaklab_lease *lease = leaklab_lease_grant(i);
		struct leaklab_client *client = leaklab_client_join(i);

		if (!lease || !client)
			return -ENOMEM;
		leaklab_packets_forward(packets);
		leaklab_lease_expire(lease);
		leaklab_part_add(leaked, lease);
		leaklab_part_add(living, client);
		if (time_before(jiffies, due))
			schedule_timeout_uninterruptible(due - jiffies);
	}
	packets_drain();
	leaklab_part_end(leaked, true, sizeof(struct leaklab_lease), "kmalloc-64");
	leaklab_part_end(living, false, sizeof(struct leaklab_client), "kmalloc-64");
	leaklab_pointer(living, "head", &leaklab_clients);
	return 0;
}
