# Alcazar. `make help` lists the targets.
#
# One Makefile for everything. What it builds goes below build/; MODE=dbg, asan,
# ubsan, tsan, cov and fuzz have build/MODE/ for themselves, but share build/guest
# and build/tests: guests are the same whatever runs them.

MODE	?= rel
CC	:= $(if $(filter default,$(origin CC)),gcc,$(CC))
B	:= build$(if $(filter-out rel,$(MODE)),/$(MODE))
G	:= build/tests/guest
PREFIX	?= /usr/local
VERSION	:= 0.1.0

# V=1 shows the commands, -s nothing.
Q	:= $(if $(V),,@)
say	= @$(if $(V)$(findstring s,$(firstword -$(MAKEFLAGS))),:,printf '  %-6s %s\n' $(1) $@)

CSTD	:= -std=gnu11
WARN	:= -Wall -Wextra -Wno-unused-parameter -Wshadow -Wconversion -Wno-sign-conversion -Werror \
	   -Wno-gnu-variable-sized-type-not-at-end
INC	:= -I. -Ivmm
DEFS	:= -D_GNU_SOURCE -DALCAZAR_MODE=\"$(MODE)\"
OPT.rel	  := -O2 -g
OPT.dbg	  := -Og -g
OPT.asan  := -O1 -g -fsanitize=address -fno-omit-frame-pointer
OPT.ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all
# It does not see fences; those that there are order guest memory, which is exempt.
OPT.tsan  := -O1 -g -fsanitize=thread $(if $(findstring clang,$(CC)),,-Wno-tsan)
OPT.cov	  := -O0 -g --coverage
OPT.fuzz  := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
ifeq ($(OPT.$(MODE)),)
$(error MODE=$(MODE) is none of rel, dbg, asan, ubsan, tsan, cov, fuzz)
endif
CFLAGS	+= $(CSTD) $(OPT.$(MODE)) $(WARN) -fPIC -fvisibility=default -pthread -fno-strict-aliasing \
	   -MMD -MP $(DEFS) $(INC)
# C code that translated code calls runs while a guest's vector registers are live, and leaves
# them alone; tools/check-vectors looks whether it does. Sanitizers' own code does not.
ifneq ($(filter rel dbg,$(MODE)),)
QUIET	:= $(addprefix $B/vmm/,$(patsubst %,cpu/%.o,xlat_call xlat_rep xlat xlat_return xlat_ring xcache mmu codemap debug \
	   lapic lapic_regs lapic_timer exception system control far segment msr pv xsave stub_wide) \
	   mem/gmem.o)
$(QUIET): CFLAGS += -mgeneral-regs-only -fno-jump-tables \
	   $(if $(findstring clang,$(CC)),-fno-builtin,-fno-tree-loop-distribute-patterns)
$B/vmm/cpu/xlat_tramp.o: CFLAGS += -DXLAT_QUIET=1
endif
LDFLAGS	+= $(filter -fsanitize=% --coverage,$(OPT.$(MODE))) -pthread
LIBS	:= -lZydis -lZycore -lhwloc -lnuma -lcyaml -lyaml -ljansson -llz4 -lzstd -lz -llzma

LIB_SRC	 := $(sort $(wildcard vmm/*/*.c host/linux/*.c host/linux/kvm/*.c))
CMD_SRC	 := $(sort $(wildcard host/linux/cmd/*.c))
PIN_SRC	 := $(sort $(wildcard tools/pin_cores/*.c))
SIM_SRC	 := $(sort $(wildcard host/sim/*.c))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
UNIT_LIB := $(sort $(filter-out $(UNIT_SRC),$(wildcard tests/unit/*.c)))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
INITRD_SRC := $(sort $(wildcard tests/initrd/*.c))
# Guest programs: NAME.c runs in long mode, NAME32.c in 32-bit protected mode;
# NAME-asm.S, if there is one, belongs to it.
GUEST_SRC := $(sort $(wildcard tests/guest/*.c))
GUEST_RT  := $(sort $(wildcard tests/guest/rt/*.c tests/guest/rt/*.S))

LIB_OBJ	 := $(LIB_SRC:%.c=$B/%.o)
CMD_OBJ	 := $(CMD_SRC:%.c=$B/%.o)
PIN_OBJ	 := $(PIN_SRC:%.c=$B/%.o)
SIM_OBJ	 := $(SIM_SRC:%.c=$B/%.o)
UNIT_BIN := $(UNIT_SRC:%.c=$B/%)
FUZZ_BIN := $(FUZZ_SRC:%.c=$B/%)
REPLAY_BIN := $(FUZZ_SRC:tests/fuzz/fuzz_%.c=$B/tests/fuzz/replay_%)
INITRD_BIN := $(INITRD_SRC:%.c=build/%)
GUEST_BIN := $(GUEST_SRC:tests/guest/%.c=$G/%)
CLI_TEST_BIN := build/tests/cli/threads build/tests/cli/slow_affinity.so

.PHONY: all lib unit guests initrd kernel lab lab-parts check-lab bench-vcpu-create bench-machine deps demo demo-run run \
	check check-run check-long soak boot-kernels lockstep gate gate-renew bench bench-engine bench-placement bench-memory \
	format format-check tidy \
	check-headers check-deps check-vectors fuzz fuzz-run \
	cov cov-run docs install uninstall clean help
.DELETE_ON_ERROR:
.PRECIOUS: $B/%.o $G/64/%.o $G/32/%.o build/tests/initrd/%

all: $B/libalcazar.a $B/libalcazar.so $B/alcazar $B/pin_cores ## libalcazar, alcazar and pin_cores (default)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | sort | expand -t 16

# --- the library and the command ----------------------------------------------

lib: $B/libalcazar.a
$B/libalcazar.a: $(LIB_OBJ)
	@rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^
$B/libalcazar.so: $(LIB_OBJ)
	$(call say,LD)
	$(Q)$(CC) -shared $(LDFLAGS) -Wl,-soname,libalcazar.so.0 -o $@ $^ $(LIBS)
$B/alcazar: $(CMD_OBJ) $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
# It has words, options and reports in common with the command.
$B/pin_cores: $(PIN_OBJ) $(filter-out %/main.o,$(CMD_OBJ)) $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -lm
$B/libsim.a: $(SIM_OBJ)
	@rm -f $@
	$(call say,AR)
	$(Q)ar rcs $@ $^

$B/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

# --- tests --------------------------------------------------------------------

unit: $(UNIT_BIN) $(REPLAY_BIN) ## build the unit tests
$B/tests/unit/test_%: $B/tests/unit/test_%.o $(UNIT_LIB:%.c=$B/%.o) $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -lcmocka
# What the command is made of, but for its main().
$B/tests/unit/test_cmd_%: $B/tests/unit/test_cmd_%.o $(filter-out %/main.o,$(CMD_OBJ)) \
		$B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -lcmocka
$B/tests/unit/test_pin_%: $B/tests/unit/test_pin_%.o $(filter-out %/main.o,$(PIN_OBJ) $(CMD_OBJ)) \
		$B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -lm -lcmocka
# It has the machine of the unit tests.
$B/tests/fuzz/replay_code: $B/tests/fuzz/fuzz_code.o $B/tests/fuzz/replay.o \
		$B/tests/unit/flat.o $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/tests/fuzz/fuzz_code: $B/tests/fuzz/fuzz_code.o $B/tests/unit/flat.o $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LIBS)
# It has the command's own parser.
$B/tests/fuzz/replay_control: $B/tests/fuzz/fuzz_control.o $B/tests/fuzz/replay.o \
		$(filter-out %/main.o,$(CMD_OBJ)) $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/tests/fuzz/fuzz_control: $B/tests/fuzz/fuzz_control.o $(filter-out %/main.o,$(CMD_OBJ)) \
		$B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LIBS)
$B/tests/fuzz/replay_%: $B/tests/fuzz/fuzz_%.o $B/tests/fuzz/replay.o $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/tests/fuzz/fuzz_%: $B/tests/fuzz/fuzz_%.o $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LIBS)

$B/tests/lockstep/%: $B/tests/lockstep/%.o $B/tests/unit/compare.o $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

GATE_SRC := $(sort $(wildcard tests/gate/*.c))
$B/tests/gate/gate: $(GATE_SRC:%.c=$B/%.o) $B/tests/unit/flat.o $B/libsim.a $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)

GUEST_CFLAGS := $(CSTD) -O2 -g $(WARN) -MMD -MP -ffreestanding -fno-pie -fno-stack-protector \
	-fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing -fno-delete-null-pointer-checks \
	-mno-red-zone -mgeneral-regs-only -Itests/guest/rt
GUEST_LDFLAGS := -nostdlib -static -no-pie -Wl,--build-id=none,-z,noexecstack,-z,max-page-size=4096 \
	-Wl,--no-warn-rwx-segments -T tests/guest/rt/guest.ld

guests: $(GUEST_BIN) ## build the guest programs
$G/64/%.o: tests/guest/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -m64 $(GUEST_CFLAGS) -c -o $@ $<
$G/64/%.o: tests/guest/%.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -m64 $(GUEST_CFLAGS) -c -o $@ $<
$G/32/%.o: tests/guest/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -m32 $(GUEST_CFLAGS) -c -o $@ $<
$G/32/%.o: tests/guest/%.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -m32 $(GUEST_CFLAGS) -c -o $@ $<
guest_obj = $(patsubst tests/guest/%,$G/$(2)/%.o,$(basename \
	tests/guest/$(1).c $(wildcard tests/guest/$(1)-asm.S) $(GUEST_RT)))
# Multiboot loaders want 32-bit ELF, whatever is inside.
define guest_rule
$G/$(1): $(call guest_obj,$(1),$(2)) tests/guest/rt/guest.ld
	$$(call say,LD)
	$$(Q)$$(CC) -m$(2) $$(GUEST_LDFLAGS) -o $$@.elf $$(filter %.o,$$^)
	$$(Q)objcopy -O elf32-i386 $$@.elf $$@
endef
$(foreach g,$(GUEST_BIN:$G/%=%),$(eval $(call guest_rule,$(g),$(if $(filter %32,$(g)),32,64))))

build/tests/initrd/%: tests/initrd/%.c
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CSTD) -D_GNU_SOURCE -O2 $(WARN) -static -pthread -o $@ $<
initrd: build/guest/initrd
build/guest/initrd: tests/initrd/init $(INITRD_BIN) tools/make-initrd
	@mkdir -p $(@D)
	$(call say,INITRD)
	$(Q)tools/make-initrd $@ tests/initrd/init $(INITRD_BIN)
kernel: ## get the stock kernel that linux-image-cloud-amd64 names today
	@tools/fetch-kernel linux-image-cloud-amd64 build/guest

# --- what people run ----------------------------------------------------------
# Compilers are among the things that deps installs: it comes before everything
# else, also under -j.

deps: ## install the Debian packages that are missing
	@tools/install-deps

demo: ## build, fetch a kernel, boot it on 4 vCPUs and 2 nodes
	@tools/install-deps
	@$(MAKE) --no-print-directory demo-run
demo-run: all kernel initrd
	@tools/demo $B/alcazar

run: all kernel initrd ## boot the stock kernel; ARGS="..." adds flags
	$B/alcazar run --kernel build/guest/vmlinuz --initrd build/guest/initrd \
		--append "console=ttyS0 panic=-1 quiet" --cpus 4 --memory 1G --nodes 2 $(ARGS)

check: ## everything a change must pass; ends with "N passed, N failed"
	@tools/install-deps
	@$(MAKE) --no-print-directory check-run
check-run: all unit guests initrd kernel $(CLI_TEST_BIN) $B/tests/lockstep/boot $B/tests/gate/gate
	@B=$B MODE=$(MODE) CC="$(CC)" tests/run $(TESTS)

gate: $B/tests/gate/gate ## translated code against its committed instruction counts
	@$<
gate-renew: $B/tests/gate/gate ## commit to what translated code is now
	@$< --print >$B/expected
	@diff -u bench/engine/expected $B/expected || mv $B/expected bench/engine/expected

check-long: ## what takes too long for every change
	@tools/install-deps
	@$(MAKE) --no-print-directory all unit guests initrd kernel
	@B=$B MODE=$(MODE) CC="$(CC)" tests/run $(if $(TESTS),$(TESTS),long)

soak: all initrd kernel ## stress-ng for DURATION seconds (7200), then self-modification for a tenth
	@tools/fetch-stress-ng build/guest/stress-ng
	@B=$B MODE=$(MODE) DURATION=$(or $(DURATION),7200) tests/run soak

boot-kernels: all initrd ## boot the other kernels of the distribution
	@B=$B MODE=$(MODE) tests/run kernels

lockstep: $B/tests/lockstep/boot kernel initrd ## a whole boot by both executors, compared
	$< build/guest/vmlinuz build/guest/initrd --slice 2000
	$< build/guest/vmlinuz build/guest/initrd --slice 2000 --loose

bench: all guests kernel initrd ## the figures of this machine
	@B=$B bench/run

# The same program runs natively and in the guests. Vectors are where it says so.
ENGINE_SRC := $(sort $(wildcard bench/engine/*.c))
build/bench/work: $(ENGINE_SRC) bench/engine/work.h
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)gcc $(CSTD) -D_GNU_SOURCE -O2 -fno-tree-vectorize -fno-math-errno $(WARN) -static -pthread \
		-o $@ $(ENGINE_SRC)
build/bench/initrd: bench/engine/init build/bench/work tools/make-initrd
	$(call say,INITRD)
	$(Q)tools/make-initrd $@ bench/engine/init build/bench/work
bench-engine: ## how fast guests run: native, ours, QEMU's; WORKLOADS, ENGINES, ROUNDS select
	@tools/install-deps
	@tools/install-deps bench
	@$(MAKE) --no-print-directory all guests kernel build/bench/initrd
	@B=$B bench/engine/run
build/tests/cli/threads: tests/cli/threads.c
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)gcc $(CSTD) -D_GNU_SOURCE -O2 $(WARN) -static -pthread -o $@ $<
build/tests/cli/%.so: tests/cli/%.c
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)gcc $(CSTD) -D_GNU_SOURCE -O2 $(WARN) -shared -fPIC -o $@ $<
build/tests/lab/%: tests/lab/%.c
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)gcc $(CSTD) -D_GNU_SOURCE -O2 $(WARN) -static -o $@ $<
# Unit tests that run on the lab's KVM, too.
LAB_UNITS := $(addprefix $B/tests/unit/test_,carry engines kvm kvm_refusals)
build/lab/initrd: $B/alcazar $B/pin_cores $(GUEST_BIN) build/tests/lab/where build/tests/lab/hold build/tests/cli/threads \
		build/guest/initrd $(LAB_UNITS) $(wildcard tests/lab/* tests/lab/t/*) tests/guest/programs
	$(call say,LAB)
	$(Q)tests/lab/make $B build/lab $(LAB_UNITS)
lab-parts: all guests kernel initrd
	@$(MAKE) --no-print-directory build/lab/initrd build/tests/lab/where
lab: ## boot the NUMA lab, an emulated host with AMD-V and 4 nodes: a shell, or TESTS="place live"
	@tools/install-deps && tools/install-deps lab
	@$(MAKE) --no-print-directory lab-parts
	@tests/lab/run build/lab $(TESTS)
LABS := lab labkvm
check-lab: ## placement, memory, moves, KVM in the lab; LABS selects; LAB=host: on this host
	@tools/install-deps && tools/install-deps lab
	@$(MAKE) --no-print-directory lab-parts
	@LOGS=check-lab B=$B MODE=$(MODE) tests/run $(if $(filter host,$(LAB)),labhost,$(LABS))

$B/bench/%: $B/bench/%.o $B/libalcazar.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
bench-vcpu-create: $B/bench/vcpu_create ## vCPUs ready under KVM, against a minimal program
	@for n in 128 1024; do $B/bench/vcpu_create $$n || exit 1; done
bench-machine: $B/bench/machine ## what a machine costs its host: start, memory, pause
	@$B/bench/machine
bench-placement: $B/bench/placement ## the planner's cost beside that of other ways
	@$B/bench/placement
bench-memory: $B/bench/memory ## how fast memory is populated, against plain threads
	@$B/bench/memory

# --- what the sources must be -------------------------------------------------

C_ALL	= $(sort $(shell find $(wildcard vmm host tools bench tests) -name "*.[ch]"))
H_ALL	= $(sort $(shell find $(wildcard vmm host tools bench tests) -name "*.h" -not -path "tests/guest/*"))
H_GUEST	= $(sort $(wildcard tests/guest/rt/*.h))

format: ## let clang-format have its way
	@clang-format -i $(C_ALL)
format-check: ## is it as clang-format would have it?
	@clang-format --dry-run --Werror $(C_ALL)
# clang-tidy 14 misjudges va_list once several files share a process.
tidy: ## clang-tidy over library and command
	@printf '%s\n' $(LIB_SRC) $(CMD_SRC) $(PIN_SRC) | xargs -n 1 -P "$$(nproc)" sh -c \
		'out=$$(clang-tidy --quiet "$$0" -- $(CSTD) $(DEFS) $(INC) 2>&1) || { echo "$$out"; exit 1; }'
check-headers: ## every header compiles alone
	@for h in $(H_ALL); do \
		$(CC) $(CSTD) $(WARN) $(DEFS) $(INC) -fsyntax-only -include $$h -x c /dev/null || exit 1; done
	@for h in $(H_GUEST); do \
		$(CC) $(filter-out -MMD -MP,$(GUEST_CFLAGS)) -fsyntax-only -include $$h -x c /dev/null || exit 1; done
check-vectors: $(QUIET) ## what must not touch vector registers does not
	@tools/check-vectors $(QUIET)
check-deps: ## who may include whom
	@tools/check-includes --self-test
	@tools/check-includes .

fuzz: ## fuzz for FUZZ_SECONDS (60) each
	@$(MAKE) --no-print-directory MODE=fuzz CC=clang fuzz-run
fuzz-run: $(FUZZ_BIN)
	@for f in $(FUZZ_BIN); do c=build/fuzz/corpus/$${f##*/}; mkdir -p $$c; \
		echo "$$f"; $$f -max_total_time=$(or $(FUZZ_SECONDS),60) -print_final_stats=0 \
			-artifact_prefix=$$c- $$c || exit 1; done
cov: ## line coverage of the unit tests and guest programs, per file
	@$(MAKE) --no-print-directory MODE=cov cov-run
cov-run: all unit guests
	@find $B -name '*.gcda' -delete
	-@B=$B MODE=$(MODE) tests/run unit guest
	@tools/coverage $B $(LIB_SRC)

docs: ## manual pages as text, below build/docs
	@mkdir -p build/docs
	@for m in docs/man/*.1; do \
		MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 $$m | col -bx >build/docs/$${m##*/}.txt; done

# vmm.h and what it includes, wherever that is.
HEADERS	= $(filter %.h,$(shell $(CC) -MM $(DEFS) $(INC) vmm/vmm.h host/linux/host_linux.h))
install: all ## install below PREFIX (/usr/local), DESTDIR respected
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
		$(DESTDIR)$(PREFIX)/share/man/man1
	install -m 755 $B/alcazar $B/pin_cores $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 tools/completion/alcazar tools/completion/pin_cores \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 644 $B/libalcazar.a $(DESTDIR)$(PREFIX)/lib
	install -m 755 $B/libalcazar.so $(DESTDIR)$(PREFIX)/lib/libalcazar.so.$(VERSION)
	ln -sf libalcazar.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libalcazar.so.0
	ln -sf libalcazar.so.0 $(DESTDIR)$(PREFIX)/lib/libalcazar.so
	for h in $(patsubst vmm/%,%,$(HEADERS)); do s=$$h; [ -e $$s ] || s=vmm/$$h; \
		install -D -m 644 $$s $(DESTDIR)$(PREFIX)/include/alcazar/$$h || exit 1; done
	printf '%s\n' 'prefix=$(PREFIX)' 'Name: alcazar' 'Description: NUMA-aware virtual machines' \
		'Version: $(VERSION)' 'Libs: -L$${prefix}/lib -lalcazar' \
		'Libs.private: $(LIBS)' 'Cflags: -I$${prefix}/include/alcazar' \
		>$(DESTDIR)$(PREFIX)/lib/pkgconfig/alcazar.pc
	install -m 644 docs/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
uninstall: ## undo install
	rm -rf $(DESTDIR)$(PREFIX)/bin/alcazar $(DESTDIR)$(PREFIX)/bin/pin_cores \
		$(DESTDIR)$(PREFIX)/lib/libalcazar.* \
		$(DESTDIR)$(PREFIX)/lib/pkgconfig/alcazar.pc $(DESTDIR)$(PREFIX)/include/alcazar \
		$(DESTDIR)$(PREFIX)/share/man/man1/alcazar*.1 \
		$(DESTDIR)$(PREFIX)/share/man/man1/pin_cores.1 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/alcazar \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/pin_cores
clean: ## remove build/
	rm -rf build

-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(PIN_OBJ:.o=.d) $(SIM_OBJ:.o=.d) $(UNIT_BIN:=.d) $(UNIT_LIB:%.c=$B/%.d)
-include $B/bench/placement.d $B/bench/memory.d $B/tests/lockstep/boot.d
-include $(FUZZ_BIN:=.d) $(GATE_SRC:%.c=$B/%.d) $(wildcard $G/*/*.d $G/*/rt/*.d)
