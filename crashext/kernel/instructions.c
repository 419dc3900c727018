/*
 * What x86-64's instructions change and touch, in the words of capstone, and which of them set a
 * register last on the ways to a place: kernel/origin/code.py does the same, and says why. Nothing
 * of the words is trusted but that they end within their arrays.
 */
#include <stdint.h>
#include <string.h>

/* Bits of a mask: the registers in the order of NAMES, then what else there is. */
enum { SLOT = 1 << 16, ANYTHING = 1 << 17 };
enum { RAX = 1, RBX = 2, RCX = 4, RDX = 8, RSI = 16, RDI = 32, RBP = 64, RSP = 128,
       R11 = 1 << 11, SCRATCH = RAX | RCX | RDX | RSI | RDI | 0xf << 8 };
enum { JUMPS = 1, ENDS = 2 };

static const char NAMES[8][3] = { "ax", "bx", "cx", "dx", "si", "di", "bp", "sp" };

struct line {
	uint64_t target;	/* of a jump; 0: none */
	int64_t slot;		/* of the stack, that it touches; see slot_in() */
	uint32_t writes;	/* mask */
	int32_t to;		/* the place that it jumps to; -1: none in this function */
	uint8_t turns, writes_slot, unused[6];
};

/* A piece of text that need not end in a zero. */
struct piece {
	const char *at;
	int length;
};

static int equal(struct piece one, const char *name)
{
	return one.length && *one.at == *name && (size_t)one.length == strlen(name) &&
	       !memcmp(one.at, name, (size_t)one.length);
}

static int begins(struct piece one, const char *name)
{
	size_t length = strlen(name);

	/* Most differ in their first letter. */
	return (size_t)one.length >= length && *one.at == *name && !memcmp(one.at, name, length);
}

static int has(struct piece one, const char *name)
{
	for (; one.length > 0; one.at++, one.length--)
		if (begins(one, name))
			return 1;
	return 0;
}

static int among(struct piece one, const char *const *names)
{
	for (; *names; names++)
		if (equal(one, *names))
			return 1;
	return 0;
}

/* The register that has a name, whatever its width; 0 of none. */
static uint32_t named(struct piece one)
{
	const char *s = one.at;
	int n = one.length;

	if (n < 2 || n > 4)
		return 0;
	if (s[0] == 'r' && s[1] >= '1' && s[1] <= '9') {
		int number = s[1] - '0', used = 2;

		if (n > 2 && s[2] >= '0' && s[2] <= '9') {
			number = number * 10 + s[2] - '0';
			used = 3;
		}
		if (number < 8 || number > 15)
			return 0;
		if (n == used || (n == used + 1 && strchr("dwb", s[used]) && s[used]))
			return 1u << number;
		return 0;
	}
	for (int i = 0; i < 8; i++) {
		const char *name = NAMES[i];

		if (n == 3 && (s[0] == 'r' || s[0] == 'e') && !memcmp(s + 1, name, 2))
			return 1u << i;
		if (n == 2 && !memcmp(s, name, 2))
			return 1u << i;
		if (name[1] == 'x' && n == 2 && s[0] == name[0] && (s[1] == 'l' || s[1] == 'h'))
			return 1u << i;
		if (name[1] != 'x' && n == 3 && !memcmp(s, name, 2) && s[2] == 'l')
			return 1u << i;
	}
	return 0;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A number of up to 16 digits after 0x; -1: there is none. */
static int number(struct piece one, uint64_t *value)
{
	if (one.length < 3 || one.length > 18 || !begins(one, "0x"))
		return -1;
	*value = 0;
	for (int i = 2; i < one.length; i++) {
		if (digit(one.at[i]) < 0)
			return -1;
		*value = *value << 4 | (uint64_t)digit(one.at[i]);
	}
	return 0;
}

/*
 * [rsp + 0x10]: which slot of the stack an operand is, as twice the distance, and one more if
 * it is from rbp, behind a bit that tells it from 0, which is none.
 */
static int64_t slot_in(struct piece operand)
{
	struct piece inner = operand, distance;
	uint64_t value = 0;
	int64_t from, far;

	while (inner.length && *inner.at != '[')
		inner.at++, inner.length--;
	if (inner.length < 5 || inner.at[inner.length - 1] != ']' || has(operand, "gs:"))
		return 0;
	if (begins(inner, "[rsp"))
		from = 0;
	else if (begins(inner, "[rbp"))
		from = 1;
	else
		return 0;
	distance.at = inner.at + 4;
	distance.length = inner.length - 5;
	if (distance.length) {
		int plus = begins(distance, " + ");

		if (!plus && !begins(distance, " - "))
			return 0;
		distance.at += 3;
		distance.length -= 3;
		if (distance.length == 1 && *distance.at >= '0' && *distance.at <= '9')
			value = (uint64_t)(*distance.at - '0');
		else if (number(distance, &value) || value >> 40)
			return 0;
		far = plus ? (int64_t)value : -(int64_t)value;
	} else {
		far = 0;
	}
	return (int64_t)1 << 50 | (far + ((int64_t)1 << 41)) << 1 | from;
}

enum { MOST_PARTS = 6 };

/* The operands one by one; commas inside of a memory operand do not part them. */
static int parts_of(struct piece all, struct piece *parts)
{
	int count = 0, first = 0;

	if (!all.length)
		return 0;
	for (int i = 0; i + 1 < all.length && count < MOST_PARTS - 1; i++) {
		int j = i + 2;

		if (all.at[i] != ',' || all.at[i + 1] != ' ')
			continue;
		while (j < all.length && all.at[j] != '[' && all.at[j] != ']')
			j++;
		if (j < all.length && all.at[j] == ']')
			continue;
		parts[count].at = all.at + first;
		parts[count++].length = i - first;
		first = i + 2;
	}
	parts[count].at = all.at + first;
	parts[count++].length = all.length - first;
	return count;
}

static uint8_t turns_of(struct piece name)
{
	static const char *const tests[] = { "cbz", "cbnz", "tbz", "tbnz", "b", NULL };
	static const char *const ends[] = { "jmp", "ret", "ud2", "int3", "b", "br", "brk", "udf",
					    "eret", "retaa", "retab", NULL };
	uint8_t found = 0;

	if (begins(name, "j") || begins(name, "b.") || among(name, tests))
		found |= JUMPS;
	if (among(name, ends) ||
	    (name.length >= 4 && !memcmp(name.at + name.length - 4, " ret", 4)))
		found |= ENDS;
	return found;
}

static uint32_t written(struct piece operand, int64_t slot)
{
	uint32_t found = named(operand);

	return found ? found : slot && slot_in(operand) ? SLOT : 0;
}

static uint32_t writes_of(struct piece name, const struct piece *parts, int count, int64_t slot)
{
	static const struct {
		const char *name;
		uint32_t writes;
	} implied[] = {
		{ "mul", RAX | RDX }, { "div", RAX | RDX }, { "idiv", RAX | RDX }, { "cdq", RDX },
		{ "cqo", RDX }, { "cdqe", RAX }, { "cwde", RAX },
		{ "cpuid", RAX | RBX | RCX | RDX }, { "rdtsc", RAX | RDX },
		{ "rdtscp", RAX | RDX | RCX }, { "rdmsr", RAX | RDX }, { "syscall", RCX | R11 },
	};
	static const char *const reads[] = { "cmp", "test", "bt", "nop", "ud2", "int3", "ret", NULL };
	uint32_t found;

	if (equal(name, "call"))
		return SCRATCH;
	if (begins(name, "rep"))
		return RDI | RSI | RCX;
	for (size_t i = 0; i < sizeof(implied) / sizeof(*implied); i++)
		if (equal(name, implied[i].name))
			return implied[i].writes;
	if (equal(name, "imul") && count == 1)
		return RAX | RDX;
	if (equal(name, "push"))
		return RSP;
	if (equal(name, "pop"))
		return RSP | (count ? named(parts[0]) : 0);
	if (!count || among(name, reads) || begins(name, "j"))
		return 0;
	found = written(parts[0], slot);
	if (equal(name, "xchg") || equal(name, "xadd") || begins(name, "lock "))
		for (int i = 1; i < count; i++)
			found |= written(parts[i], slot);
	return has(name, "cmpxchg") ? found | RAX : found;
}

/* All registers that the operands name, whatever for. */
static uint32_t all_named(struct piece all)
{
	uint32_t found = 0;

	for (int i = 0; i < all.length;) {
		int first = i;

		while (i < all.length && (digit(all.at[i]) >= 0 || all.at[i] == '_' ||
					  (all.at[i] >= 'a' && all.at[i] <= 'z') ||
					  (all.at[i] >= 'A' && all.at[i] <= 'Z')))
			i++;
		if (i == first) {
			i++;
		} else {
			struct piece word = { all.at + first, i - first };

			found |= named(word);
		}
	}
	return found;
}

/* Returns the mask of what it touches. */
static uint32_t describe(struct line *line, struct piece name, struct piece operands)
{
	struct piece parts[MOST_PARTS];
	int count = parts_of(operands, parts);
	int64_t slot = 0;

	for (int i = 0; i < count && !slot; i++)
		slot = slot_in(parts[i]);
	line->slot = slot;
	line->turns = turns_of(name);
	line->writes = writes_of(name, parts, count, slot);
	line->writes_slot = !!(line->writes & SLOT);
	line->target = 0;
	if (line->turns & JUMPS && number(operands, &line->target))
		line->target = 0;
	if (line->turns || (has(operands, "[rsp") && !slot))
		return ANYTHING;
	return line->writes | all_named(operands) | (slot ? SLOT : 0);
}

/* struct cs_insn of capstone, as far as is asked. */
struct fields {
	int32_t width, address, size, mnemonic, operands, mnemonic_length, operands_length, unused;
};

static struct piece words_of(const uint8_t *row, int32_t at, int32_t most)
{
	const char *words = (const char *)row + at;
	struct piece found = { words, (int)strnlen(words, (size_t)most) };

	return found;
}

/* Bytes that crashext_lines() needs for all text. */
int64_t crashext_lines_text(const uint8_t *raw, int64_t count, const struct fields *at)
{
	int64_t total = 0;

	for (int64_t i = 0; i < count; i++, raw += at->width)
		total += 2 + words_of(raw, at->mnemonic, at->mnemonic_length).length +
			 words_of(raw, at->operands, at->operands_length).length;
	return total;
}

static int64_t place_of(const uint64_t *addresses, int64_t count, uint64_t address)
{
	int64_t low = 0, high = count;

	while (low < high) {
		int64_t middle = low + (high - low) / 2;

		if (addresses[middle] < address)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && addresses[low] == address ? low : -1;
}

/*
 * Describe `count` instructions: addresses and sizes of each, a mask of what it touches, its words
 * (mnemonic and operands, a zero behind each, from `starts`) and what it changes. Returns how many
 * of them jump to another.
 */
int64_t crashext_lines(const uint8_t *raw, int64_t count, const struct fields *at,
		       uint64_t *addresses, uint16_t *sizes, uint32_t *touches,
		       struct line *lines, int32_t *starts, char *text)
{
	int64_t used = 0, jumps = 0;

	for (int64_t i = 0; i < count; i++, raw += at->width) {
		struct piece name = words_of(raw, at->mnemonic, at->mnemonic_length);
		struct piece operands = words_of(raw, at->operands, at->operands_length);

		memcpy(&addresses[i], raw + at->address, sizeof(*addresses));
		memcpy(&sizes[i], raw + at->size, sizeof(*sizes));
		memset(&lines[i], 0, sizeof(*lines));
		touches[i] = describe(&lines[i], name, operands);
		starts[i] = (int32_t)used;
		memcpy(text + used, name.at, (size_t)name.length);
		used += name.length;
		text[used++] = 0;
		memcpy(text + used, operands.at, (size_t)operands.length);
		used += operands.length;
		text[used++] = 0;
	}
	starts[count] = (int32_t)used;
	for (int64_t i = 0; i < count; i++) {
		lines[i].to = -1;
		if (lines[i].target)
			lines[i].to = (int32_t)place_of(addresses, count, lines[i].target);
		jumps += lines[i].to >= 0;
	}
	return jumps;
}

/*
 * Which jumps lead to each place: those of place i are jumps[first[i]] up to jumps[first[i + 1]],
 * in order. `first` has count + 2 places, of which the last is for our own use.
 */
void crashext_jumps(const struct line *lines, int64_t count, int32_t *first, int32_t *jumps)
{
	memset(first, 0, sizeof(*first) * (size_t)(count + 2));
	for (int64_t i = 0; i < count; i++)
		if (lines[i].to >= 0)
			first[lines[i].to + 2]++;
	for (int64_t i = 2; i < count + 2; i++)
		first[i] += first[i - 1];
	for (int64_t i = 0; i < count; i++)
		if (lines[i].to >= 0)
			jumps[first[lines[i].to + 1]++] = (int32_t)i;
}

struct way {
	int32_t length;	/* instructions */
	int32_t sets;	/* the place of the first, where that sets what was asked about; or -1 */
	int32_t entered;
};

struct code {
	const struct line *lines;
	const int32_t *first, *jumps;
	uint8_t *seen;		/* zeros, and again so in the end */
	int32_t *todo;		/* room for twice the jumps, and two more */
	struct way *ways;	/* the same */
	int32_t *visited;	/* room for each instruction */
	int64_t count;
};

static int64_t add_jumps(const struct code *code, int64_t at, int64_t todo)
{
	for (int32_t i = code->first[at]; i < code->first[at + 1]; i++)
		code->todo[todo++] = code->jumps[i];
	return todo;
}

static int barred(const struct code *code, int64_t at)
{
	return !at || code->lines[at - 1].turns & ENDS;
}

/*
 * Code._stretches(): backwards from the place `from` to where one of `registers`, or a slot of
 * the stack unless that is 0, is set. Returns how many ways.
 */
int64_t crashext_set_last(const struct code *code, int64_t from, uint32_t registers, int64_t slot,
			  int64_t most)
{
	int64_t todo, found = 0, seen = 0;

	if (from < 0 || from >= code->count)
		return 0;
	todo = add_jumps(code, from, 0);
	if (!barred(code, from))
		code->todo[todo++] = (int32_t)from - 1;
	while (todo && seen < most) {
		int64_t at = code->todo[--todo], before = seen;
		struct way *way = &code->ways[found++];

		way->sets = -1;
		way->entered = 0;
		while (!code->seen[at]) {
			const struct line *line = &code->lines[at];

			code->seen[at] = 1;
			code->visited[seen++] = (int32_t)at;
			if (line->writes & registers ||
			    (slot && line->writes_slot && line->slot == slot)) {
				way->sets = (int32_t)at;
				break;
			}
			todo = add_jumps(code, at, todo);
			if (barred(code, at)) {
				way->entered = !at;
				break;
			}
			at--;
		}
		way->length = (int32_t)(seen - before);
	}
	while (seen)
		code->seen[code->visited[--seen]] = 0;
	return found;
}
