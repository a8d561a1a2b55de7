# Glia: `make && ./experiments/run_all`, `make test`.  README.md says the rest.
#
#   make CUDA=0              leaves CUDA out            make CUDA_ARCHS="80 120"   for other GPUs than this machine's
#   make ONEDNN=0            leaves oneDNN out (plain CPU matmul; for machines without the package)
#   make test T='-tc=csv*'   passes arguments to the test program
#   make MARCH=native        machine code for this machine's CPU (default x86-64-v3)
#   make MPI=0               leaves MPI out (default: built where pkg-config finds Open MPI; only mpirun and srun want it)
#   make PACKAGES=DIR        libraries of another prefix than /usr: DIR/include and DIR/lib (default: an active conda environment)

.DEFAULT_GOAL := all
# Plain `make` uses every core; -jN on the command line, -j1 too, still says otherwise.
MAKEFLAGS += --no-builtin-rules -j$(shell nproc)
SHELL := /bin/bash

comma := ,
NVCC       ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
CUDA       ?= $(if $(NVCC),1,0)
CUDA_HOME  ?= $(patsubst %/bin/nvcc,%,$(NVCC))
ONEDNN     ?= 1
MARCH      ?= x86-64-v3
CCACHE     ?= $(shell command -v ccache 2>/dev/null)
CXX        := $(CCACHE) g++
SANITIZE   ?=
PACKAGES   ?= $(CONDA_PREFIX)
VARIANT    := $(if $(filter 1,$(CUDA)),cuda,cpu)$(if $(filter 0,$(ONEDNN)),-plain)$(if $(SANITIZE),-$(firstword $(subst $(comma), ,$(SANITIZE))))
BUILD      ?= build/$(VARIANT)
# CUDA=/usr/local/cuda in a cluster's environment, or ONEDNN=off, would build neither the one nor the other.
$(foreach v,CUDA ONEDNN,$(if $(filter 0 1,$($(v))),,$(error glia: $(v): expected 0 or 1, got '$($(v))')))
$(if $(filter 1,$(CUDA)),$(if $(NVCC),,$(error glia: CUDA=1: found no nvcc; say NVCC=PATH, or CUDA=0 for a build without)))

# --- which GPUs: this machine's, or without one all that nvcc knows of those below, with PTX for later ones -----------
# Only 9.0 has instructions of its own (wgmma) that code for "90" may not use. sm_80 runs on 8.x as it is; 86 and 89
# get code of their own, since the compiler knows their schedules.
ALL_ARCHS := 80 86 89 90a 100 120
ifeq ($(CUDA),1)
ifndef CUDA_ARCHS
  GPUS       := $(sort $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -dc '0-9\n'))
  KNOWN      := $(patsubst sm_%,%,$(shell $(NVCC) --list-gpu-code 2>/dev/null))
  CUDA_ARCHS := $(patsubst 90,90a,$(or $(GPUS),$(foreach a,$(ALL_ARCHS),$(if $(filter $(a:a=),$(KNOWN)),$(a)))))
endif
endif
# PTX of the highest architecture that is not Hopper's own, where several are built.
PTX_ARCH := $(if $(word 2,$(CUDA_ARCHS)),$(lastword $(sort $(filter-out 90a 100 120,$(CUDA_ARCHS))) $(filter 100,$(CUDA_ARCHS)) \
              $(filter 120,$(CUDA_ARCHS))))
# Hopper's kernels are for 90a alone; for other GPUs their files are empty shells.
GENCODE      = $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a)) \
               $(foreach a,$(PTX_ARCH),-gencode arch=compute_$(a),code=compute_$(a))
GENCODE_SM90 = $(foreach a,$(or $(filter 90a,$(CUDA_ARCHS)),$(firstword $(CUDA_ARCHS))),-gencode arch=compute_$(a),code=sm_$(a))

# --- what is built: every file by wildcard; a file with a main() is a program -------------------
ROOMS    := engine nn moe data experiments tools
CPP      := $(shell find $(ROOMS) -name '*.cpp' | LC_ALL=C sort)
MAINS    := $(shell grep -lE '^int main\b' $(CPP))
# The table of cases and its gradient checker, which tests and tools/gradcheck share: part of the library.
CASE_CPP := $(wildcard tests/cases/*.cpp)
CU       := $(if $(filter 1,$(CUDA)),$(shell find $(ROOMS) -name '*.cu' | LC_ALL=C sort))
LIB_CPP  := $(filter-out $(MAINS) engine/comm/mpi/% $(if $(filter 0,$(CUDA)),engine/device/cuda/%),$(CPP)) $(CASE_CPP)
TEST_CPP := $(filter-out $(CASE_CPP),$(shell find tests -name '*.cpp' | LC_ALL=C sort))
PROGRAMS := $(MAINS:.cpp=)
OBJ       = $(patsubst %,$(BUILD)/%.o,$(1))
LIB      := $(BUILD)/libglia.so
MPI      ?= $(if $(shell PKG_CONFIG_PATH='$(PACKAGES:%=%/lib/pkgconfig)' pkg-config --exists ompi-c 2>/dev/null && echo yes),1,0)
$(if $(filter 0 1,$(MPI)),,$(error glia: MPI: expected 0 or 1, got '$(MPI)'))
MPI_LIB  := $(if $(filter 1,$(MPI)),$(BUILD)/libglia_mpi.so)
TESTS    := $(BUILD)/run_tests

VERSION  := 0.2
COMMIT   := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
CXXFLAGS := -std=c++20 -g1 -fPIC -fno-semantic-interposition -march=$(MARCH) -fno-math-errno -fno-trapping-math -ffp-contract=on -fopenmp -Wall -Wextra -Werror -I.
NVFLAGS  := -std=c++20 -O3 -lineinfo -I. --expt-relaxed-constexpr --extended-lambda -Werror all-warnings \
            -Xcompiler -Wall,-Wextra,-Werror,-Wno-unused-parameter,-fPIC,-fopenmp,-march=$(MARCH)
CLANG    := $(findstring clang,$(shell $(CXX) --version 2>/dev/null))
ifneq ($(CLANG),)
  # What is said to g++ alone: `pragma GCC ivdep`, and warnings that clang has not.
  CXXFLAGS += -Wno-unknown-pragmas -Wno-unknown-warning-option
endif
LDLIBS   := -lfmt -lutf8proc -lcairo -lfontconfig -lzip -llzma -lz -fopenmp -lpthread
ifeq ($(ONEDNN),1)
  CXXFLAGS += -DGLIA_ONEDNN=1
  LDLIBS   += -ldnnl
endif
# Prefixes beside /usr; a Debian package that was unpacked there has its libraries in lib/x86_64-linux-gnu.
PACKAGE_LIBS := $(wildcard $(foreach p,$(PACKAGES),$(p)/lib $(p)/lib/*-linux-gnu))
CXXFLAGS += $(foreach p,$(PACKAGES),$(addprefix -isystem ,$(p)/include $(wildcard $(p)/include/*-linux-gnu)))
LDFLAGS  += $(foreach d,$(PACKAGE_LIBS),-L$(d) -Wl,-rpath,$(d))
ifneq ($(SANITIZE),)
  # -O1 and the sanitizers bring a false alarm of g++ 12 about fmt with them.
  CXXFLAGS += -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer -Wno-error=stringop-overflow -Wno-error=maybe-uninitialized
  LDFLAGS  += -fsanitize=$(SANITIZE)
endif
ifeq ($(CUDA),1)
  # A distribution's toolkit lies where the compiler looks anyway; -isystem /usr/include would put it before libstdc++'s.
  CUDA_ROOT := $(filter-out /usr,$(CUDA_HOME))
  CXXFLAGS += -DGLIA_CUDA=1 $(CUDA_ROOT:%=-isystem %/include)
  LDLIBS   += $(foreach c,$(CUDA_ROOT),-L$(c)/lib64 -Wl,-rpath,$(c)/lib64) -lcublas -lcublasLt -lcurand -lcudart -lcuda
  LDFLAGS  += $(addprefix -L,$(or $(CUDA_ROOT:%=%/lib64/stubs),$(wildcard /usr/lib/*/stubs)))
endif

# What computes is optimised, what reports and tests is compiled fast: no bit of a result depends on it.
LEVEL     = $(if $(SANITIZE),-O1,$(if $(filter engine/% data/%,$(1)),-O3,$(if $(filter nn/% moe/% experiments/analysis/% experiments/records/routing/routing_counts.cpp,$(1)),-O2,-O1)))

.PHONY: all help install uninstall test test-asan test-tsan test-gpu sanitize-gpu scaling bench data weights check-layers format clean packages
all: $(PROGRAMS)

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile
	@echo
	@echo 'targets: all test test-gpu test-asan test-tsan sanitize-gpu scaling bench data weights packages check-layers format clean;'
	@echo '         install and uninstall, with PREFIX=$(PREFIX) and DESTDIR=$(DESTDIR)'

# clang 16 lets no lambda have a structured binding where OpenMP is on; tests have many, and no loop of OpenMP's.
ifneq ($(CLANG),)
$(call OBJ,$(TEST_CPP)): OWN_FLAGS += -fno-openmp
endif

# --- packages: installed when root or passwordless sudo, else one line that says what to type ----
packages $(BUILD)/packages.stamp: tools/install_packages.sh
	@ONEDNN=$(ONEDNN) MPI=$(MPI) PACKAGES='$(PACKAGES)' tools/install_packages.sh
	@mkdir -p $(BUILD) && touch $(BUILD)/packages.stamp

# --- compile --------------------------------------------------------------------------------------
# Objects depend on the flags that they were built with. A flags file counts as old only where it says something else,
# so that `make -n` tells the truth and changes nothing.
CXX_LINE  = $(CXX) $(CXXFLAGS)
NVCC_LINE = $(NVCC) $(NVFLAGS) $(GENCODE) $(GENCODE_SM90)
changed   = $(if $(findstring <$(strip $(2))>,<$(strip $(file < $(1)))>),,FORCE)
$(BUILD)/flags.c++: $(call changed,$(BUILD)/flags.c++,$(CXX_LINE))
	@mkdir -p $(@D) && printf '%s\n' '$(subst ','\'',$(strip $(CXX_LINE)))' > $@
$(BUILD)/flags.nvcc: $(call changed,$(BUILD)/flags.nvcc,$(NVCC_LINE))
	@mkdir -p $(@D) && printf '%s\n' '$(subst ','\'',$(strip $(NVCC_LINE)))' > $@

$(BUILD)/%.cpp.o: %.cpp $(BUILD)/flags.c++ | $(BUILD)/packages.stamp
	@mkdir -p $(@D)
	@echo "  c++   $<"
	@$(CXX) $(CXXFLAGS) $(OWN_FLAGS) $(call LEVEL,$<) -MMD -MP -c $< -o $@

$(BUILD)/%.cu.o: %.cu $(BUILD)/flags.nvcc | $(BUILD)/packages.stamp
	@mkdir -p $(@D)
	@echo "  nvcc  $<"
	@$(CCACHE) $(NVCC) $(NVFLAGS) $(OWN_FLAGS) $(if $(findstring /sm90/,$<),$(GENCODE_SM90),$(GENCODE)) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

# The commit is compiled into one small file, and only that file is rebuilt when it changes.
$(BUILD)/commit: FORCE
	@mkdir -p $(@D); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/engine/core/build_info.cpp.o: OWN_FLAGS := -DGLIA_COMMIT='"$(COMMIT)"' -DGLIA_VARIANT='"$(VARIANT)"'
$(BUILD)/engine/core/build_info.cpp.o: $(BUILD)/commit
$(BUILD)/engine/device/cuda/code.cu.o: OWN_FLAGS := -DGLIA_CUDA_ARCHS='"$(CUDA_ARCHS)"'
FORCE:

# A study is a file of data; all of them become strings of the program.
STUDIES := $(sort $(wildcard experiments/studies/*.study))
$(BUILD)/studies.inc: $(STUDIES) FORCE
	@mkdir -p $(@D)
	@for s in $(STUDIES); do echo "{\"$$(basename $$s .study)\", R\"study($$(cat $$s)"; echo ')study"},'; done > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
$(BUILD)/experiments/studies/built_in.cpp.o: OWN_FLAGS := -DGLIA_STUDIES='"$(BUILD)/studies.inc"'
$(BUILD)/experiments/studies/built_in.cpp.o: $(BUILD)/studies.inc

# One shared library, and its debug information in a file of its own: a program is a few hundred kilobytes.
$(LIB): $(call OBJ,$(LIB_CPP) $(CU))
	@echo "  link  $@"
	@$(CXX) -shared $(LDFLAGS) -Wl,--no-undefined -Wl,-soname,libglia.so -o $@.tmp $^ $(LDLIBS)
	@objcopy --only-keep-debug $@.tmp $@.debug && objcopy --strip-debug --add-gnu-debuglink=$@.debug $@.tmp && mv $@.tmp $@

# MPI is loaded by programs that a launcher started several of: the others need no library of it.
$(BUILD)/engine/comm/mpi/transport.cpp.o: OWN_FLAGS = $(patsubst -I%,-isystem %,$(shell pkg-config --cflags ompi-c)) -DOMPI_SKIP_MPICXX=1
$(BUILD)/libglia_mpi.so: $(BUILD)/engine/comm/mpi/transport.cpp.o
	@echo "  link  $@"
	@$(CXX) -shared $(LDFLAGS) -Wl,--no-undefined -o $@ $< $(shell pkg-config --libs ompi-c) -lfmt -lpthread

# The programs lie beside their sources; the build variant they were last linked from is recorded,
# so that `make CUDA=0` after `make` links them anew.
build/variant: FORCE
	@mkdir -p build; echo '$(VARIANT)' | cmp -s - $@ || echo '$(VARIANT)' > $@
$(PROGRAMS): %: $(BUILD)/%.cpp.o $(LIB) build/variant | $(MPI_LIB)
	@echo "  link  $@"
	@$(CXX) $(LDFLAGS) -o $@ $< -L$(BUILD) -lglia -Wl,-rpath,'$$ORIGIN/../$(BUILD):$$ORIGIN/../lib' $(LDLIBS)

$(TESTS): $(call OBJ,$(TEST_CPP)) $(LIB)
	@echo "  link  $@"
	@$(CXX) $(LDFLAGS) -o $@ $(call OBJ,$(TEST_CPP)) -L$(BUILD) -lglia -Wl,-rpath,'$$ORIGIN' $(LDLIBS)

# The CPU suite under the sanitizers. OpenMP's own threads are not instrumented (libgomp), so TSan looks at std::thread alone: one
# thread a region, also where a test asks for more, since every report of theirs takes its time before it is left out.
# Some tests ask for memory that no machine has: the sanitizers are to refuse it as malloc does.
test-asan:
	@ASAN_OPTIONS=allocator_may_return_null=1 LSAN_OPTIONS=suppressions=$(CURDIR)/tests/leaks.supp:print_suppressions=0 $(MAKE) --no-print-directory CUDA=0 SANITIZE=address,undefined test
test-tsan:
	@TSAN_OPTIONS=allocator_may_return_null=1:suppressions=$(CURDIR)/tests/threads.supp OMP_NUM_THREADS=1 OMP_THREAD_LIMIT=1 $(MAKE) --no-print-directory CUDA=0 SANITIZE=thread test

# --- install: the engine as a library, for programs of one's own (docs/examples), and ours as glia-NAME with their pages --
PREFIX ?= /usr/local
HEADERS := $(shell find engine nn moe data -name '*.h' | LC_ALL=C sort)
PUBLIC  := $(filter -std=% -march=% -fopenmp -DGLIA_%,$(CXXFLAGS))
# Absolute, since pkg-config and the loader look there from anywhere; and one word, since rm -rf takes each for a path.
AT       = $(if $(word 2,$(PREFIX))$(word 2,$(DESTDIR)),$(error glia: PREFIX and DESTDIR: expected paths without spaces, got \
             '$(PREFIX)' and '$(DESTDIR)'),$(abspath $(patsubst ~/%,$(HOME)/%,$(PREFIX))))
TO       = $(DESTDIR)$(AT)
MAN1     = $(TO)/share/man/man1
WORDS    = $(TO)/share/bash-completion/completions
install: $(LIB) $(PROGRAMS)
	@for h in $(HEADERS); do install -Dm644 $$h $(TO)/include/glia/$$h; done
	@install -Dm755 $(LIB) $(TO)/lib/libglia.so
	@$(if $(MPI_LIB),install -Dm755 $(MPI_LIB) $(TO)/lib/libglia_mpi.so)
	@install -d $(TO)/lib/pkgconfig
	@printf '%s\n' 'prefix=$(AT)' 'Name: glia' 'Description: tensor engine with reverse-mode autograd, and Mixture-of-Experts routing' \
	  'Version: $(VERSION)' 'Cflags: -I$${prefix}/include/glia $(PUBLIC)' 'Libs: -L$${prefix}/lib -Wl,-rpath,$${prefix}/lib -lglia -lfmt' \
	  > $(TO)/lib/pkgconfig/glia.pc
	@install -d $(MAN1) $(WORDS)
	@for p in $(PROGRAMS); do name=glia-$${p##*/}; install -Dm755 $$p $(TO)/bin/$$name; \
	  ./$$p --help-man > $(MAN1)/$$name.1; install -m644 tools/completion.bash $(WORDS)/$$name; done
	@for c in $$(./tools/bench --help-completion); do ./tools/bench $$c --help-man > $(MAN1)/glia-bench-$$c.1; done
	@echo "glia: installed in $(TO); build with \$$(pkg-config --cflags --libs glia)"
uninstall:
	@rm -rf $(TO)/include/glia $(TO)/lib/libglia.so $(TO)/lib/libglia_mpi.so $(TO)/lib/pkgconfig/glia.pc
	@for p in $(PROGRAMS); do name=glia-$${p##*/}; rm -f $(TO)/bin/$$name $(WORDS)/$$name $(MAN1)/$$name.1; done
	@rm -f $(MAN1)/glia-bench-*.1

# --- use ------------------------------------------------------------------------------------------
# Idle OpenMP threads sleep: spinning ones steal the cores from whatever else runs on a small machine.
export OMP_WAIT_POLICY ?= passive

test: all $(TESTS)
	@$(TESTS) $(T)

test-gpu: all $(TESTS)
	@GLIA_TEST_DEVICE=cuda $(TESTS) $(T)

# The table of ops, layers and routers under compute-sanitizer: some minutes. Left out: what only repeats forward passes.
sanitize-gpu: all $(TESTS)
	@for tool in memcheck racecheck synccheck; do \
	  echo "compute-sanitizer --tool $$tool" && GLIA_TEST_DEVICE=cuda compute-sanitizer --tool $$tool --error-exitcode 1 \
	    $(TESTS) -tc='table*' -tce='*finite diff*,*nothing is written*' || exit 1; done

# Every GPU of this host, and PyTorch beside it (docs/scaling.md).
scaling:
	@tests/device/pack.sh && tests/device/scaling.sh

bench: all
	./tools/bench ops
	./tools/bench tokenizer
	./tools/bench step

data: all
	./tools/fetch_data

weights: all
	./tools/fetch_data --weights

check-layers:
	@tools/check_layers.sh

format:
	@clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

clean:
	rm -rf build $(PROGRAMS)

-include $(patsubst %.o,%.d,$(call OBJ,$(CPP) $(CU) $(CASE_CPP) $(TEST_CPP)))
