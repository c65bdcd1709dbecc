# Alcazar. `make help` lists the targets.

MODE	?= rel
CC	?= gcc
B	:= build$(if $(filter-out rel,$(MODE)),/$(MODE))

CSTD	:= -std=gnu11
WARN	:= -Wall -Wextra -Wno-unused-parameter -Wshadow -Wconversion -Wno-sign-conversion -Werror
INC	:= -I. -Ivmm
DEFS	:= -D_GNU_SOURCE -DALCAZAR_MODE=\"$(MODE)\"
OPT.rel	  := -O2 -g
OPT.dbg	  := -Og -g
OPT.asan  := -O1 -g -fsanitize=address -fno-omit-frame-pointer
OPT.ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=all
OPT.tsan  := -O1 -g -fsanitize=thread
CFLAGS	+= $(CSTD) $(OPT.$(MODE)) $(WARN) -fPIC -fvisibility=default -pthread -fno-strict-aliasing \
	   -MMD -MP $(DEFS) $(INC)
LDFLAGS	+= $(filter -fsanitize=%,$(OPT.$(MODE))) -pthread
LIBS	:= -lZydis -lZycore -lhwloc -lnuma -lcyaml -lyaml -ljansson -llz4 -lzstd -lz -llzma

LIB_SRC	 := $(sort $(wildcard vmm/*/*.c host/linux/*.c))
CMD_SRC	 := $(sort $(wildcard host/linux/cmd/*.c))
SIM_SRC	 := $(sort $(wildcard host/sim/*.c))
UNIT_SRC := $(sort $(wildcard tests/unit/test_*.c))
UNIT_LIB := $(sort $(filter-out $(UNIT_SRC),$(wildcard tests/unit/*.c)))

LIB_OBJ	 := $(LIB_SRC:%.c=$B/%.o)
CMD_OBJ	 := $(CMD_SRC:%.c=$B/%.o)
SIM_OBJ	 := $(SIM_SRC:%.c=$B/%.o)
UNIT_BIN := $(UNIT_SRC:%.c=$B/%)

.PHONY: all lib unit check-headers format format-check clean help
all: $B/libalcazar.a $B/libalcazar.so $B/alcazar

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

lib: $B/libalcazar.a
$B/libalcazar.a: $(LIB_OBJ)
	@rm -f $@
	ar rcs $@ $^
$B/libalcazar.so: $(LIB_OBJ)
	$(CC) -shared $(LDFLAGS) -o $@ $^ $(LIBS)
$B/alcazar: $(CMD_OBJ) $B/libalcazar.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS)
$B/libsim.a: $(SIM_OBJ)
	@rm -f $@
	ar rcs $@ $^

$B/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

unit: $(UNIT_BIN) ## build the unit tests
$B/tests/unit/test_%: $B/tests/unit/test_%.o $(UNIT_LIB:%.c=$B/%.o) $B/libsim.a $B/libalcazar.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LIBS) -lcmocka

check-headers: ## every header compiles alone
	@for h in $$(git ls-files '*.h'); do \
		$(CC) $(CSTD) $(WARN) $(DEFS) $(INC) -fsyntax-only -x c $$h || exit 1; done

SRC_ALL := $(shell git ls-files '*.c' '*.h' 2>/dev/null)
format: ## let clang-format have its way
	clang-format -i $(SRC_ALL)
format-check: ## is it as clang-format would have it?
	clang-format --dry-run --Werror $(SRC_ALL)

clean:
	rm -rf build

-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d) $(SIM_OBJ:.o=.d) $(UNIT_BIN:=.d)
