"""What `help leakscan` and `help objsim` say in crash, 80 columns wide; crash itself adds NAME,
SYNOPSIS and the heading DESCRIPTION.

The examples are of real sessions. A test holds the lists of options to the parsers.
"""

from typing import Dict, Tuple

_LEAKSCAN = """\
  This command says whether kernel memory is leaked, where, and by whom. It
  looks at all of memory: what nothing in use points at is unreachable, as for
  kmemleak. The first line is the answer.

  Without an argument it prints the verdict over the machine on one screen.

       -v  everything: all verdicts with their evidence, where all memory is,
           who holds the pages that no counter has, the largest caches; with a
           CACHE: all groups, all words
      why  every verdict with the evidence for and against it
   memory  where all memory is, counted twice
    pages  who holds the pages that no counter has
   caches  the largest slab caches
   growth  what grew, with --before

  With the name of a slab cache, or several: what its objects are (full slabs
  included), how many are alike, who points at them, who allocated them, and
  which struct they may be. A cache that is called like a word above wins.

  Other questions:

    --orphans        every object of every cache that nothing reaches
    --list FILE      with --orphans: write their addresses to FILE
    --sites          with CACHE: which code allocates from it
    --before OLD     without CACHE: what grew since OLD, an earlier dump,
                     session or --json report, or a directory of proc files
    --trace FILE     who allocated in this trace what was not freed, and which
                     of it is leaked (trace_pipe, trace-cmd, trace.dat, perf
                     script)
{live}

  How to look:

    --refs           say who points at objects, even where that takes minutes
    --no-refs        do not look for that; without either: where it takes
                     seconds
    --memory MIB     memory for that; the largest caches are sampled to fit
    --walker kmem    take objects from kmem -S, which lists no full slabs
    --samples N      objects to look at in each cache
    --jobs N         threads that read memory side by side; 1 without it
    --seed N         another N looks at other objects, chosen at random
    --threshold S    score from which objects count as alike, 0 to 1
    --metric NAME    how bytes are compared; see leakscan -h
    --hops N         objects to follow a pointer through until one has a name

  Where the answer goes:

    --json           print one JSON document
    --html FILE      also write the report as one HTML file
    --record FILE    also record what was looked at, to ask it elsewhere
    --version        print the version
    -h, --help       list all options with their defaults

  Ctrl-C ends it with what is known by then. Pipes and > work as ever.

EXAMPLES
  Is memory leaked?

    crash> leakscan
    leak, slab (high confidence): 200,000 kmalloc-32 objects (6.1 MiB) are
        leaked: nothing reaches them; likely allocated by
        leaklab_leak_nodes+0x46 [leaklab]
      for:     28.8 % of slab memory is in them
      for:     they may be struct leaklab_node [leaklab]
    205.5 MiB of memory: 171.2 MiB free, 3.5 MiB user, 29.1 MiB kernel, 1.7 MiB
      unaccounted
    next: leakscan kmalloc-32

  What is in that cache?

    crash> leakscan kmalloc-32 | head -4
    kmalloc-32: 200,000 of 200,626 objects (99.7 %) are alike, 6.1 MiB: nothing
      points at them; unlinked from a list and not freed: LIST_POISON1 and
      LIST_POISON2 at +0x8, +0x10 in all of the group
      200,626 allocated of 200,704 slots, 32 bytes each (32 with metadata);

  All that nothing reaches, into a file; what grew since an older dump:

    crash> leakscan --orphans --list orphans.txt
    crash> leakscan --before /var/crash/yesterday/vmcore"""

_LIVE = """\
    --live SECONDS   trace the running kernel for so long, then what is leaked
    --stacks         with --live: trace stacks, too
"""

_OBJSIM = """\
  This command says what is at an address: which cache's object, page or area,
  allocated or free; who holds it or that nothing reaches it; who points at it
  and what it points at; who allocated it; how many are like it; its words.
  With several addresses: how alike the objects, areas or blocks of pages are,
  and where they differ.

  An address is hexadecimal, a symbol, or an expression, and may lie inside an
  object.

    --list           list the address of every object like ADDR
    --as TYPE        list the object's members, as of struct TYPE
    --text FILE      compare objects in pasted output of rd, gdb's x, hexdump,
                     xxd, od, kmemleak, SLUB or drgn
    --size BYTES     their size, for --text
    --refs           say who points there, even where that takes minutes
    --no-refs        do not look for that; without either: where it takes
                     seconds
    --samples N      objects to compare it with
    --jobs N         threads that read memory side by side; 1 without it
    --seed N         another N looks at other objects, chosen at random
    --threshold S    score from which objects count as alike, 0 to 1
    --metric NAME    how bytes are compared; see objsim -h
    --hops N         objects to follow a pointer through until one has a name
    --json           print one JSON document
    --record FILE    also record what was looked at, to ask it elsewhere
    --version        print the version
    -v, --verbose    all words
    -h, --help       list all options with their defaults

EXAMPLES
  Who has this object, and how many are like it?

    crash> objsim ffff888603091540
    ffff888603091540: kmalloc-32 object, allocated, unreachable: nothing points
      at it
      may be struct leaklab_node [leaklab] (score 1.00; 3 words agree, 0
        disagree), or struct udp_tunnel_nic_shared (0.63)
      likely allocated by leaklab_leak_nodes+0x46 [leaklab] (by the code,
        99.7 % among 1,606 places)
      like it: 200,000 of 200,626 kmalloc-32 objects (99.7 %), score 0.7 or
        more, mean 0.95

  Two objects side by side; a variable; every object like one:

    crash> objsim ffff888603091540 ffff888603091560
    crash> objsim &init_task
    crash> objsim --list ffff888603091540 > like-it.txt"""


def texts(live: bool) -> Dict[str, Tuple[str, str, str]]:
    """Of each command: what it does in few words, its arguments, and its help.

    `live`: crash looks at a running kernel.
    """
    return {
        "leakscan": (
            "says whether memory is leaked, where, and by whom",
            "[options] [CACHE...]",
            _LEAKSCAN.replace("{live}\n", _LIVE if live else ""),
        ),
        "objsim": (
            "says what is at an address, who has it, and what is like it",
            "[options] ADDR...",
            _OBJSIM,
        ),
    }
