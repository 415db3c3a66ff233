# make          build/execd (static, runs in an empty root) and build/sandboxd
# make demo     the whole thing at work, driven by the official SDKs
# make run      sandboxd in the foreground
# make test     every test; make test SUITE="unit api" for some
# make bench    measured figures beside their floors; AGAIN=build/bench.json compares with that run
# make plot     docs/bench.svg and the tables of the READMEs from build/bench.json
# make soak     every operation from 64 clients, SECONDS=n; then nothing is lost and nothing is left
# make lint     formatting, layers, clang-tidy, cppcheck
#
# SAN=1 builds the same under AddressSanitizer and UBSan into build/san, TSAN=1 the agent under ThreadSanitizer into
# build/tsan; V=1 shows the commands.

B   := build$(if $(SAN),/san)$(if $(TSAN),/tsan)$(if $(FUZZER),/fuzz)
O   := $B/obj
LWS := build/deps/lws$(if $(SAN),-san)
ZSTD := build/deps/zstd
Q   := $(if $V,,@)

all: $B/execd $B/sandboxd kernels

# ---- compiler -----------------------------------------------------------

CC       := $(if $(FUZZER),clang-14,gcc)
WARNINGS := -Wall -Wextra -Wshadow -Wformat=2 -Werror
ifdef SAN
# gcc sees less through the instrumentation and warns of what cannot be.
HARDEN   := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
	    -Wno-format-truncation -Wno-maybe-uninitialized
else ifdef TSAN
HARDEN   := -O1 -fsanitize=thread -fno-omit-frame-pointer -Wno-tsan -Wno-format-truncation -Wno-maybe-uninitialized
else ifdef FUZZER
# NULL + 0, which clang alone takes for an overflow, is the beginning of an empty buffer.
HARDEN   := -O1 -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize=pointer-overflow -fno-sanitize-recover=all \
	    -fno-omit-frame-pointer -w
else
HARDEN   := -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fstack-clash-protection -fcf-protection
endif
CFLAGS   := -std=gnu17 -g $(WARNINGS) $(HARDEN) -fPIC -pthread -ffunction-sections -fdata-sections \
	    $(if $(SAN)$(TSAN)$(FUZZER),,-fno-asynchronous-unwind-tables)
CPPFLAGS := -D_GNU_SOURCE -I. -isystem $(LWS)/include -isystem $(ZSTD)/include -MMD -MP
LDFLAGS  := -pthread -Wl,--gc-sections -Wl,-z,relro,-z,now $(if $(SAN)$(FUZZER),-fsanitize=address -fsanitize=undefined) \
	    $(if $(TSAN),-fsanitize=thread)
LIBS     := $(LWS)/lib/libwebsockets.a -ljansson -lseccomp -lcap

# ---- objects ------------------------------------------------------------

SHARED   := $(wildcard lib/*.c proto/*.c seccomp/*.c)
EXECD    := $(wildcard execd/*.c execd/*/*.c)
SANDBOXD := $(wildcard sandboxd/*.c sandboxd/*/*.c)
TESTS    := $(wildcard tests/unit/test_*.c tests/api/*.c)
KERNELS  := $(filter-out %.md %.c kernels/go/% kernels/bash/%,$(wildcard kernels/*/*.*)) kernels/bash/fork.so \
	    kernels/python/native.so

# JDK 17 or later compiles the Java kernel beforehand; without it every start does that, half a second of its time.
JAVAC := $(shell command -v jar >/dev/null && \
	javac -version 2>&1 | awk '{ split($$2, v, "."); if (v[1] >= 17) print "javac" }')
ifdef JAVAC
KERNELS := $(KERNELS:kernels/java/kernel.java=kernels/java/classes.jar)
endif
objects   = $(patsubst %,$O/%.o,$(basename $1))

# The agent has to stay under 2 MB: of it, what is in no tight loop is made small.
HOT   := $(patsubst %,execd/%.c,archive codec events feed file_copy file_list file_read file_write frame glob \
	 graft grep output output_read output_spill pump regex_run tar tar_out tree walk)
small  = $(if $(SAN)$(TSAN)$(FUZZER),,$(if $(filter-out $(HOT),$(filter execd/% seccomp/%,$1)),-Os))

$O/%.o: %.c build/deps/$(if $(SAN),san,build).stamp
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) $(call small,$<) -c $< -o $@

# The agent carries the files of its kernels, each a gzip file; kernel_files is the table of them (execd/asset.c).
$O/kernels/%.gz: kernels/%
	@mkdir -p $(@D)
	@gzip -9nc $< >$@

# What bash and Python load: linked with nothing, see kernels/bash/fork.c.
$O/kernels/python/native.so: execd/isolated/become.c seccomp/apply.c \
	$(wildcard execd/isolated/*.h seccomp/*.h) lib/util.h
$O/kernels/%.so: kernels/%.c build/deps/build.stamp
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(Q)$(CC) -std=gnu17 -D_GNU_SOURCE -I. $(WARNINGS) -Os -fPIC -fno-stack-protector -fvisibility=hidden \
		-shared -nostdlib -Wl,-z,noseparate-code -s $(filter %.c,$^) -o $@

$O/kernels/%.so.gz: $O/kernels/%.so
	@gzip -9nc $< >$@

$O/kernels/java/classes.jar: kernels/java/kernel.java
	@rm -rf $(@D)/classes && mkdir -p $(@D)/classes $(@D)/source
	@echo "  JAVAC $<"
	@cp $< $(@D)/source/ExecdKernel.java
	$(Q)$(JAVAC) --release 17 -nowarn -g:none -d $(@D)/classes $(@D)/source/ExecdKernel.java
	$(Q)jar --create --no-compress --date=2000-01-01T00:00:00Z --file $@ -C $(@D)/classes .

$O/kernels/%.jar.gz: $O/kernels/%.jar
	@gzip -9nc $< >$@

$O/kernels.S: $(KERNELS:%=$O/%.gz) Makefile
	@i=0; { echo '.section .rodata'; \
	for file in $(KERNELS); do i=$$((i + 1)); \
		echo "name$$i: .asciz \"$${file#kernels/}\""; \
		echo "start$$i: .incbin \"$O/$$file.gz\""; \
		echo "end$$i:"; \
	done; \
	echo '.section .data.rel.ro,"aw"'; \
	echo '.balign 8'; \
	echo '.global kernel_files'; \
	echo 'kernel_files:'; \
	for n in $$(seq $$i); do echo ".quad name$$n, start$$n, end$$n"; done; \
	echo '.quad 0, 0, 0'; \
	echo '.section .note.GNU-stack,"",@progbits'; } >$@

# Profiles of system calls: seccomp/profiles/x.json is profile_x_start .. profile_x_end.
PROFILES := $(wildcard seccomp/profiles/*.json)

$O/profiles.S: $(PROFILES) Makefile
	@mkdir -p $(@D)
	@for name in $(basename $(notdir $(PROFILES))); do \
		echo ".global profile_$${name}_start, profile_$${name}_end"; \
		echo "profile_$${name}_start: .incbin \"seccomp/profiles/$$name.json\""; \
		echo "profile_$${name}_end:"; \
	done | sed '1i .section .rodata.profiles,"a",@progbits' >$@
	@echo '.section .note.GNU-stack,"",@progbits' >>$@

$O/profiles.o: $O/profiles.S
	$(Q)$(CC) -I. -c $< -o $@

# The documentation is part of sandboxd.
$O/sandboxd/api/docs.o: sandboxd/api/docs.html proto/lifecycle.yaml

$O/kernels.o: $O/kernels.S
	$(Q)$(CC) -I. -c $< -o $@

$B/execd: STATIC := $(if $(SAN)$(TSAN),,-static -s)
$B/execd $B/execd-dynamic: $(call objects,$(SHARED) $(EXECD)) $O/kernels.o $O/profiles.o
	@echo "  LINK  $@"
	$(Q)$(CC) $(STATIC) $^ $(LDFLAGS) $(LIBS) $(ZSTD)/lib/libzstd.a -lz -o $@

$B/sandboxd: $(call objects,$(SHARED) $(SANDBOXD)) $O/profiles.o
	@echo "  LINK  $@"
	$(Q)$(CC) $(if $(SAN),,-s) $^ $(LDFLAGS) $(LIBS) -lsqlite3 -lcurl -lz -o $@

# ---- kernels that lie beside the agent ------------------------------------

# Go 1.21 or later builds the Go kernel; nothing else needs it, and without it there is no Go in execd.
GO := $(shell command -v go >/dev/null && \
	go version | awk '{ split(substr($$3, 3), v, "."); if (v[1] > 1 || v[2] >= 21) print "go" }')

kernels: $(if $(GO),$B/kernels/go)
ifndef GO
	@echo "  SKIP  kernels/go: there is no Go compiler here (1.21 or later); execd will have no Go cells"
endif

$B/kernels/go: $(wildcard kernels/go/*.go) kernels/go/go.mod kernels/go/go.sum
	@mkdir -p $(@D)
	@echo "  GO    $@"
	$(Q)cd kernels/go && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly \
		$(GO) build -trimpath -buildvcs=false -ldflags='-s -w' -o $(CURDIR)/$@ .

# ---- tests --------------------------------------------------------------

# Everything but the mains, so that a unit test draws what it names.
$B/house.a: $(call objects,$(filter-out %/main.c,$(SHARED) $(EXECD) $(if $(TSAN),,$(SANDBOXD)))) $O/kernels.o $O/profiles.o
	@rm -f $@
	$(Q)ar rcs $@ $^

# tests/unit/test_x.c becomes build/unit/test_x, a helper of the api tests build/api/NAME.
PROGRAMS := $(TESTS:tests/%.c=$B/%)
$(PROGRAMS): $B/%: $O/tests/%.o $B/house.a | build/deps/test.stamp
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) $< $B/house.a $(LDFLAGS) $(LIBS) $(ZSTD)/lib/libzstd.a -lz -lsqlite3 -lcurl -lcmocka -o $@

# Each fuzz target with its corpus as input (part of make test), or under libFuzzer (make fuzz SECONDS=n).
TARGETS := $(patsubst tests/fuzz/%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
REPLAYS := $(TARGETS:%=$B/replay/%)
$(REPLAYS): $B/replay/%: $O/tests/fuzz/%.o $O/tests/fuzz/replay.o $B/house.a | build/deps/test.stamp
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) $(filter %.o,$^) $B/house.a $(LDFLAGS) $(LIBS) $(ZSTD)/lib/libzstd.a -lz -lsqlite3 -lcurl -o $@

$(TARGETS:%=$B/%): $B/%: $O/tests/fuzz/%.o $B/house.a
	@echo "  LINK  $@"
	$(Q)$(CC) -fsanitize=fuzzer $(filter %.o,$^) $B/house.a $(LDFLAGS) $(LIBS) $(ZSTD)/lib/libzstd.a -lz -lsqlite3 -lcurl -o $@

SECONDS := 60
fuzz: | build/deps/fuzz.stamp
	@$(MAKE) --no-print-directory FUZZER=1 $(TARGETS:%=build/fuzz/%)
	@tools/fuzz $(SECONDS) $(TARGETS)

# What the tests load into a program under test.
SHIMS := $(patsubst tests/%.c,$B/%.so,$(wildcard tests/fault/*.c))
$(SHIMS): $B/%.so: tests/%.c | build/deps/test.stamp
	@mkdir -p $(@D)
	@echo "  LINK  $@"
	$(Q)$(CC) $(CPPFLAGS) -std=gnu17 -O2 $(WARNINGS) -fPIC -shared $< -o $@ -ldl

# The agent and what its workers stand on.
tsan-programs: $B/execd $(patsubst %,$B/unit/test_%,pool loop walk output)

# execd-dynamic: the same objects with a malloc that valgrind can stand in for.
test-programs: $(PROGRAMS) $(SHIMS) $(if $(SAN),,$B/execd-dynamic) $(if $(SAN),$(REPLAYS))

test: | build/deps/test.stamp build/deps/registry.stamp
	@tools/test $(SUITE)

soak: all build/sdk.stamp
	@build/venv/bin/python tests/soak/soak --seconds $(SECONDS) $(PART)

demo: all build/sdk.stamp
	@build/venv/bin/python tools/demo

run: all
	@tools/run

bench: all $B/bench/probe build/sdk.stamp
	@build/venv/bin/python tests/bench/bench $(if $(PEER),--peer $(PEER)) $(if $(AGAIN),--again $(AGAIN)) $(ROW)

plot:
	@tests/bench/plot.py

$B/bench/%: tests/bench/%.c build/deps/build.stamp
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 -O2 $(WARNINGS) $< -o $@

# ---- lint: the build itself is -Werror; a file is looked at again when its object is made anew ----

SOURCES := $(SHARED) $(EXECD) $(SANDBOXD) $(TESTS) $(wildcard tests/fault/*.c)
HEADERS := $(wildcard */*.h */*/*.h)

lint: layers check-format tidy cppcheck

layers: | build/deps/build.stamp
	@tools/layers.sh

check-format: | build/deps/test.stamp
	@clang-format --dry-run -Werror $(SOURCES) $(HEADERS)

format: | build/deps/test.stamp
	clang-format -i $(SOURCES) $(HEADERS)

# Tests are spared: clang-tidy 14 dies of some, and an assertion means nothing to it.
tidy: $(patsubst %.c,$O/%.tidy,$(SHARED) $(EXECD) $(SANDBOXD))

$O/%.tidy: %.c $O/%.o .clang-tidy | build/deps/test.stamp
	@echo "  TIDY  $<"
	$(Q)clang-tidy --quiet $< -- $(filter-out -MMD -MP,$(CPPFLAGS)) -std=gnu17 2>$@.err || { cat $@.err; false; }
	@touch $@

cppcheck: | build/deps/test.stamp
	@mkdir -p $B/cppcheck
	@cppcheck --quiet --cppcheck-build-dir=$B/cppcheck -j2 --std=c11 --library=posix,gnu,tools/cppcheck.cfg -I. -D_GNU_SOURCE \
		--enable=warning,performance,portability --inline-suppr --suppressions-list=tools/cppcheck.suppress \
		--error-exitcode=1 $(SHARED) $(EXECD) $(SANDBOXD)

# ---- what must be there first -------------------------------------------

deps:
	@tools/deps.sh build
	@tools/deps.sh test
	@tools/registry.sh

build/deps/%.stamp: tools/deps.sh tools/libwebsockets.patch
	@tools/deps.sh $*

build/deps/registry.stamp: tools/registry.sh | build/deps/test.stamp
	@tools/registry.sh

build/deps/test.stamp build/deps/san.stamp: build/deps/build.stamp

# The official SDKs, from their registries, for the demo and the sdk tests.
build/sdk.stamp: tools/sdk.sh tests/requirements.txt tests/sdk/package.json | build/deps/test.stamp
	@tools/sdk.sh

clean:
	rm -rf $(filter-out build/deps,$(wildcard build/*))

.PHONY: all kernels test test-programs tsan-programs fuzz soak demo run bench plot lint layers check-format format tidy cppcheck deps clean
.SECONDARY:
.DELETE_ON_ERROR:
-include $(patsubst %.o,%.d,$(call objects,$(SOURCES) $(wildcard tests/fuzz/*.c)))
