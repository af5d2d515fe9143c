// NVIDIA's driver for a card whose memory is the host's, but for what it tells of the card (gpu/tests/driver.c). Everything is done when it is asked for, so that any stream is in order. What would
// be undefined on a card ends the process: a copy beyond its memory, memory that is freed twice, a kernel that nobody knows.
#include "../../../gpu/kernels/emulation/launch.hpp"
#include "candle.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

extern "C" int cuDeviceTotalMem_v2(size_t *bytes, int device);

namespace {

// CUresult
constexpr int SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_CONTEXT = 201, NOT_FOUND = 500;

std::recursive_mutex one_at_a_time;
thread_local void *current_context;

[[noreturn]] void refuse(const char *what, const std::string &which = "") {
    fprintf(stderr, "card: %s %s\n", what, which.c_str());
    abort();
}

size_t total_bytes() {
    size_t bytes = 0;
    return cuDeviceTotalMem_v2(&bytes, 0), bytes;
}

struct Memory {
    std::map<const char *, size_t> pieces;
    size_t used = 0, reserved = 0, most_used = 0;

    int give(void **address, size_t bytes) {
        std::lock_guard guard(one_at_a_time);
        if (used + bytes > total_bytes()) return OUT_OF_MEMORY;
        size_t rounded = (bytes + 511) / 512 * 512 + 512;
        char *piece = (char *)aligned_alloc(512, rounded);
        memset(piece, 0xff, rounded); // NaN, in every type
        pieces[piece] = bytes;
        used += bytes;
        most_used = std::max(most_used, used);
        reserved = std::max(reserved, used);
        *address = piece;
        return SUCCESS;
    }

    int take(void *address) {
        std::lock_guard guard(one_at_a_time);
        auto piece = pieces.find((char *)address);
        if (piece == pieces.end()) refuse("memory is freed that was not given out");
        used -= piece->second;
        pieces.erase(piece);
        free(address);
        return SUCCESS;
    }

    // Ends the process unless all of it was given out in one piece.
    void *inside(const void *address, size_t bytes) {
        std::lock_guard guard(one_at_a_time);
        auto after = pieces.upper_bound((const char *)address);
        if (after == pieces.begin()) refuse("a copy outside memory");
        auto [start, size] = *--after;
        if ((const char *)address + bytes > start + size) refuse("a copy beyond its memory");
        return (void *)address;
    }
} memory;

int copy(void *to, const void *from, size_t bytes) {
    memmove(to, from, bytes);
    return SUCCESS;
}

struct Module {
    // Null for one of candle's.
    const emulation::Module *kernels;
};

struct Function {
    std::string name;
    const emulation::Module *module;
    const emulation::Kernel *kernel;
};

int launch(const Function &function, const unsigned *blocks, const unsigned *threads, unsigned shared_bytes, void **parameters) {
    std::lock_guard guard(one_at_a_time);
    if (!function.kernel) {
        if (!run_candle(function.name, parameters)) refuse("there is no kernel of candle's called", function.name);
        return SUCCESS;
    }
    if (threads[1] != 1 || threads[2] != 1 || shared_bytes) refuse("no such launch is emulated:", function.name);
    std::vector<uint64_t> arguments;
    for (const char *kind = function.kernel->parameters; *kind; kind++, parameters++) {
        bool wide = *kind == 'p' || *kind == 'l';
        arguments.push_back(wide ? *(uint64_t *)*parameters : *(uint32_t *)*parameters);
    }
    emulation::Launch launch{function.kernel, function.module, {blocks[0], blocks[1], blocks[2]}, threads[0], arguments.data(), {}, {}};
    if (emulation_run(&launch) < 0) refuse(function.name.c_str(), launch.message);
    return SUCCESS;
}

} // namespace

extern "C" {

int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuCtxGetCurrent(void **context) { return *context = current_context, SUCCESS; }
int cuCtxSetCurrent(void *context) { return current_context = context, SUCCESS; }
int cuCtxSynchronize() { return SUCCESS; }

int cuStreamCreate(void **stream, unsigned) {
    static char streams;
    return *stream = &streams, current_context ? SUCCESS : INVALID_CONTEXT;
}
int cuStreamDestroy_v2(void *) { return SUCCESS; }
int cuStreamSynchronize(void *) { return SUCCESS; }
int cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, SUCCESS; }
int cuEventCreate(void **event, unsigned) { return *event = &memory, SUCCESS; }
int cuEventDestroy_v2(void *) { return SUCCESS; }
int cuEventRecord(void *, void *) { return SUCCESS; }
int cuEventSynchronize(void *) { return SUCCESS; }
int cuEventQuery(void *) { return SUCCESS; }

int cuMemAlloc_v2(void **address, size_t bytes) { return current_context ? memory.give(address, bytes) : INVALID_CONTEXT; }
int cuMemAllocAsync(void **address, size_t bytes, void *) { return cuMemAlloc_v2(address, bytes); }
int cuMemFree_v2(void *address) { return memory.take(address); }
int cuMemFreeAsync(void *address, void *) { return memory.take(address); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned) { return *address = malloc(bytes), SUCCESS; }
int cuMemFreeHost(void *address) { return free(address), SUCCESS; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = total_bytes(), *free = *total - memory.reserved;
    return current_context ? SUCCESS : INVALID_CONTEXT;
}
int cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) { return copy(memory.inside(to, bytes), from, bytes); }
int cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) { return copy(to, memory.inside(from, bytes), bytes); }
int cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) { return copy(memory.inside(to, bytes), memory.inside(from, bytes), bytes); }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *) { return cuMemcpyHtoD_v2(to, from, bytes); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *) { return cuMemcpyDtoH_v2(to, from, bytes); }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *) { return cuMemcpyDtoD_v2(to, from, bytes); }
int cuMemsetD8_v2(void *to, unsigned char value, size_t bytes) { return memset(memory.inside(to, bytes), value, bytes), SUCCESS; }
int cuMemsetD8Async(void *to, unsigned char value, size_t bytes, void *) { return cuMemsetD8_v2(to, value, bytes); }

int cuDeviceGetMemPool(void **pool, int) { return *pool = &memory, SUCCESS; }
int cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &memory, SUCCESS; }
// CU_MEMPOOL_ATTR_USED_MEM_HIGH may be set to 0, and is then what is in use.
int cuMemPoolSetAttribute(void *, int attribute, void *) {
    if (attribute == 8) memory.most_used = memory.used;
    return SUCCESS;
}
// Reserved now and at most, used now and at most.
int cuMemPoolGetAttribute(void *, int attribute, void *value) {
    *(uint64_t *)value = attribute <= 6 ? memory.reserved : attribute == 7 ? memory.used : memory.most_used;
    return SUCCESS;
}
int cuMemPoolTrimTo(void *, size_t bytes) { return memory.reserved = std::max(memory.used, bytes), SUCCESS; }

// The type of a module of ours is told by what only one of them has: compute capability 8.0, or attention on tensor cores.
int cuModuleLoadData(void **module, const void *image) {
    if (!current_context) return INVALID_CONTEXT;
    std::string ptx = (const char *)image;
    auto has = [&](const char *text) { return ptx.find(text) != ptx.npos; };
    const emulation::Module *half = has("attention_forward") ? &emulation_f16 : &emulation_f32;
    *module = new Module{!has("softmax_gradient") ? nullptr : has(".target sm_80") ? &emulation_bf16 : half};
    return SUCCESS;
}
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    const emulation::Module *kernels = ((Module *)module)->kernels;
    const emulation::Kernel *kernel = kernels ? emulation_find(kernels, name) : nullptr;
    if (kernels && !kernel) return NOT_FOUND;
    *function = new Function{name, kernels, kernel};
    return SUCCESS;
}

int cuLaunchKernel(
    void *function, unsigned x, unsigned y, unsigned z, unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
    void *, void **parameters, void **
) {
    const unsigned blocks[] = {x, y, z}, threads[] = {threads_x, threads_y, threads_z};
    return current_context ? launch(*(Function *)function, blocks, threads, shared_bytes, parameters) : INVALID_CONTEXT;
}

} // extern "C"
