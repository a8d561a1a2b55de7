# Glia: `make && ./experiments/run_all`, `make test`.  README.md says the rest.
#
#   make CUDA=0              leaves CUDA out            make CUDA_ARCHS="80 86 90a"   other GPUs
#   make ONEDNN=0            leaves oneDNN out (plain CPU matmul; for machines without the package)
#   make test T='-tc=csv*'   passes arguments to the test program

.DEFAULT_GOAL := all
MAKEFLAGS += --no-builtin-rules
SHELL := /bin/bash

NVCC       ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
CUDA       ?= $(if $(NVCC),1,0)
CUDA_ARCHS ?= 90a 80
CUDA_HOME  ?= $(patsubst %/bin/nvcc,%,$(NVCC))
ONEDNN     ?= 1
MARCH      ?= x86-64-v3
CCACHE     ?= $(shell command -v ccache 2>/dev/null)
CXX        := $(CCACHE) g++
VARIANT    := $(if $(filter 1,$(CUDA)),cuda,cpu)$(if $(filter 0,$(ONEDNN)),-plain)
BUILD      ?= build/$(VARIANT)

# --- what is built: every file by wildcard; a file with a main() is a program -------------------
ROOMS    := engine nn moe data experiments tools
CPP      := $(shell find $(ROOMS) -name '*.cpp' | LC_ALL=C sort)
MAINS    := $(shell grep -lE '^int main\b' $(CPP))
# The table of cases and its gradient checker, which tests and tools/gradcheck share: part of the library.
CASE_CPP := $(wildcard tests/cases/*.cpp)
CU       := $(if $(filter 1,$(CUDA)),$(shell find $(ROOMS) -name '*.cu' | LC_ALL=C sort))
LIB_CPP  := $(filter-out $(MAINS) $(if $(filter 0,$(CUDA)),engine/device/cuda/%),$(CPP)) $(CASE_CPP)
TEST_CPP := $(filter-out $(CASE_CPP),$(shell find tests -name '*.cpp' | LC_ALL=C sort))
PROGRAMS := $(MAINS:.cpp=)
OBJ       = $(patsubst %,$(BUILD)/%.o,$(1))
LIB      := $(BUILD)/libglia.a
TESTS    := $(BUILD)/run_tests

COMMIT   := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
CXXFLAGS := -std=c++20 -g1 -march=$(MARCH) -fno-math-errno -fno-trapping-math -ffp-contract=on -fopenmp -Wall -Wextra -Werror -I.
NVFLAGS  := -std=c++20 -O3 -lineinfo -I. --expt-relaxed-constexpr --extended-lambda -Werror all-warnings \
            -Xcompiler -Wall,-Wextra,-Werror,-Wno-unused-parameter,-fopenmp,-march=$(MARCH) \
            $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$(a),code=sm_$(a))
LDLIBS   := -lfmt -lutf8proc -lcairo -lzip -fopenmp -lpthread
ifeq ($(ONEDNN),1)
  CXXFLAGS += -DGLIA_ONEDNN=1
  LDLIBS   += -ldnnl
endif
ifeq ($(CUDA),1)
  CXXFLAGS += -DGLIA_CUDA=1 -isystem $(CUDA_HOME)/include
  LDLIBS   += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublas -lcublasLt -lcurand -lcudart -lcuda
  LDFLAGS  += -L$(CUDA_HOME)/lib64/stubs
endif

.PHONY: all test test-gpu sanitize-gpu bench data weights check-layers format clean packages
all: $(PROGRAMS)

# --- packages: installed when root or passwordless sudo, else one line that says what to type ----
packages $(BUILD)/packages.stamp: tools/install_packages.sh
	@ONEDNN=$(ONEDNN) tools/install_packages.sh
	@mkdir -p $(BUILD) && touch $(BUILD)/packages.stamp

# --- compile --------------------------------------------------------------------------------------
$(BUILD)/%.cpp.o: %.cpp | $(BUILD)/packages.stamp
	@mkdir -p $(@D)
	@echo "  c++   $<"
	@$(CXX) $(CXXFLAGS) $(if $(filter engine/% data/%,$<),-O3,-O2) -MMD -MP -c $< -o $@

$(BUILD)/%.cu.o: %.cu | $(BUILD)/packages.stamp
	@mkdir -p $(@D)
	@echo "  nvcc  $<"
	@$(CCACHE) $(NVCC) $(NVFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

# The commit is compiled into one small file, and only that file is rebuilt when it changes.
$(BUILD)/commit: FORCE
	@mkdir -p $(@D); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
$(BUILD)/engine/core/build_info.cpp.o: CXXFLAGS += -DGLIA_COMMIT='"$(COMMIT)"' -DGLIA_VARIANT='"$(VARIANT)"'
$(BUILD)/engine/core/build_info.cpp.o: $(BUILD)/commit
FORCE:

# A study is a file of data; all of them become strings of the program.
STUDIES := $(sort $(wildcard experiments/studies/*.study))
$(BUILD)/studies.inc: $(STUDIES) FORCE
	@mkdir -p $(@D)
	@for s in $(STUDIES); do echo "{\"$$(basename $$s .study)\", R\"study($$(cat $$s)"; echo ')study"},'; done > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
$(BUILD)/experiments/studies/built_in.cpp.o: CXXFLAGS += -DGLIA_STUDIES='"$(BUILD)/studies.inc"'
$(BUILD)/experiments/studies/built_in.cpp.o: $(BUILD)/studies.inc

$(LIB): $(call OBJ,$(LIB_CPP) $(CU))
	@echo "  ar    $@"
	@rm -f $@ && ar rcs $@ $^

# The programs lie beside their sources; the build variant they were last linked from is recorded,
# so that `make CUDA=0` after `make` links them anew.
build/variant: FORCE
	@mkdir -p build; echo '$(VARIANT)' | cmp -s - $@ || echo '$(VARIANT)' > $@
$(PROGRAMS): %: $(BUILD)/%.cpp.o $(LIB) build/variant
	@echo "  link  $@"
	@$(CXX) $(LDFLAGS) -o $@ $< $(LIB) $(LDLIBS)

$(TESTS): $(call OBJ,$(TEST_CPP)) $(LIB)
	@echo "  link  $@"
	@$(CXX) $(LDFLAGS) -o $@ $(call OBJ,$(TEST_CPP)) $(LIB) $(LDLIBS)

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
