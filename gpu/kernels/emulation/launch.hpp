// Between the kernels of one element type, launch.cpp that runs them, and src/emulation, which declares the same in Rust.

#pragma once

#include <cstdint>

namespace emulation {

struct Kernel {
    const char *name;
    // One letter each: p(ointer), i(nt), l(ong long), f(loat).
    const char *parameters;
    // Runs one thread.
    void (*call)(const uint64_t *arguments);
    const Kernel *next;
};

// The kernels of one element type, and where the shared memory lies that they declare.
struct Module {
    const Kernel *const *kernels;
    char *shared, *shared_end;
};

struct Launch {
    const Kernel *kernel;
    const Module *module;
    uint32_t blocks[3], threads;
    const uint64_t *arguments;
    // What went wrong, and in which block.
    uint32_t block[3];
    char message[256];
};

} // namespace emulation

extern "C" {
extern const emulation::Module emulation_f32, emulation_f16, emulation_bf16;

// The kernel of that name, or null.
const emulation::Kernel *emulation_find(const emulation::Module *, const char *name);
// Bytes of shared memory that the first block touched of what the kernel declares; or -1, and the launch says what is wrong.
int64_t emulation_run(emulation::Launch *);
}
