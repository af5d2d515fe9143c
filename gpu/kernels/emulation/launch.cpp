// Runs the blocks of a grid one after the other, and the threads of a block as fibers: each until it waits for others.
//
// A fiber runs threads to their end one after the other. If a thread waits, its fiber keeps it, and another fiber goes on:
// one whose thread need no longer wait, else a fresh one that takes up the threads not yet started. So a kernel without
// barriers is a plain loop. Nobody left to go on while some wait: these threads wait at different barriers.

#include "device.hpp"
#include <csetjmp>
#include <cstdio>
#include <deque>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;
constexpr size_t PAGE_BYTES = 4096;
constexpr size_t MOST_WARPS = 32;

// Only where a fiber starts does it need a ucontext: _setjmp and _longjmp switch without a system call.
struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool fresh;
    char *stack;
    // Of the thread that it keeps.
    uint3 thread;
    bool waits;
    Site site;
};

struct Warp {
    int waiting;
    Fiber *first, *lanes[WARP];
    void *brought[WARP];
    void (*act)(void *const brought[WARP]);
};

struct Block {
    uint32_t started, ended;
    std::deque<Fiber *> ready;
    std::vector<Fiber *> waiting;
    Warp warps[MOST_WARPS];
};

std::mutex one_launch;
Launch *launch;
Block block;
std::deque<Fiber> fibers;
std::vector<Fiber *> idle;
Fiber host, *current = &host;

void run_threads();

void prepare(Fiber &fiber) {
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK_BYTES;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_threads, 0);
    fiber.fresh = true;
    fiber.waits = false;
}

Fiber *make_fiber() {
    // With a page below that cannot be written, so that a stack that overflows hits nothing else.
    void *memory = mmap(nullptr, PAGE_BYTES + STACK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) refuse("there is no memory for a thread's stack", {"launch", 0});
    Fiber &fiber = fibers.emplace_back();
    fiber.stack = static_cast<char *>(memory) + PAGE_BYTES;
    mprotect(fiber.stack, STACK_BYTES, PROT_READ | PROT_WRITE);
    prepare(fiber);
    return &fiber;
}

[[noreturn]] void jump(Fiber *to) {
    current = to;
    threadIdx = to->thread;
    if (!to->fresh) _longjmp(to->at, 1);
    to->fresh = false;
    setcontext(&to->start);
    __builtin_unreachable();
}

void go_on_as(Fiber *to) {
    if (to != current && !_setjmp(current->at)) jump(to);
}

// Whoever can go on; the host if nobody can.
Fiber *another() {
    if (!block.ready.empty()) {
        Fiber *next = block.ready.front();
        block.ready.pop_front();
        return next;
    }
    if (block.started == launch->threads) return &host;
    if (idle.empty()) return make_fiber();
    Fiber *next = idle.back();
    idle.pop_back();
    return next;
}

void run_threads() {
    for (;;) {
        while (block.started < launch->threads) {
            const uint32_t nth = block.started++;
            const bool from_last = (blockIdx.x + blockIdx.y + blockIdx.z) % 2;
            threadIdx = current->thread = {from_last ? launch->threads - 1 - nth : nth, 0, 0};
            launch->kernel->call(launch->arguments);
            block.ended++;
        }
        idle.push_back(current);
        go_on_as(another());
    }
}

void wait(Site site) {
    current->waits = true;
    current->site = site;
    go_on_as(another());
}

void release(Fiber *fiber) {
    if (fiber == current) return;
    fiber->waits = false;
    block.ready.push_back(fiber);
}

template <class... Parts> void say(const char *format, Parts... parts) {
    snprintf(launch->message, sizeof launch->message, format, parts...);
}

const char *name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void say_difference(const Fiber &first, uint32_t thread, Site second) {
    say("thread %u waits at %s:%d, thread %u at %s:%d", first.thread.x, name(first.site.file), first.site.line, thread,
        name(second.file), second.line);
}

[[noreturn]] void refuse_difference(const Fiber &first, Site second) {
    say_difference(first, threadIdx.x, second);
    jump(&host);
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file)); }

// Some threads wait, and nobody can go on.
void explain_standstill() {
    const Fiber *first = nullptr;
    unsigned waiting = 0;
    for (const Fiber &fiber : fibers) {
        if (!fiber.waits) continue;
        waiting++;
        if (!first) first = &fiber;
        else if (!same(first->site, fiber.site)) {
            return say_difference(*first, fiber.thread.x, fiber.site);
        }
    }
    say("%u threads wait at %s:%d, %u have ended", waiting, name(first->site.file), first->site.line, block.ended);
}

void fill_shared() {
    const Module &module = *launch->module;
    if (module.shared) memset(module.shared, 0xff, module.shared_end - module.shared);
}

// How many bytes no longer are as fill_shared left them.
int64_t touched(const char *first, const char *end) {
    return std::count_if(first, end, [](char byte) { return byte != '\xff'; });
}

bool run_block() {
    block.started = block.ended = 0;
    block.ready.clear();
    block.waiting.clear();
    for (Warp &warp : block.warps) warp.waiting = 0;
    fill_shared();
    if (!_setjmp(host.at)) jump(another());
    if (!launch->message[0] && block.ended < launch->threads) explain_standstill();
    return !launch->message[0];
}

} // namespace

void with_block(Site site) {
    if (!block.waiting.empty() && !same(block.waiting[0]->site, site)) refuse_difference(*block.waiting[0], site);
    block.waiting.push_back(current);
    if (block.waiting.size() < launch->threads) return wait(site);
    for (Fiber *fiber : block.waiting) release(fiber);
    block.waiting.clear();
}

void with_warp(void *brought, void (*act)(void *const brought[WARP]), Site site) {
    Warp &warp = block.warps[threadIdx.x / WARP];
    if (!warp.waiting) {
        warp.first = current;
        warp.act = act;
    } else if (!same(warp.first->site, site) || warp.act != act) {
        refuse_difference(*warp.first, site);
    }
    warp.lanes[threadIdx.x % WARP] = current;
    warp.brought[threadIdx.x % WARP] = brought;
    if (++warp.waiting < WARP) return wait(site);
    act(warp.brought);
    warp.waiting = 0;
    for (Fiber *lane : warp.lanes) release(lane);
}

void refuse(const char *what, Site site) {
    say("%s at %s:%d", what, name(site.file), site.line);
    jump(&host);
}

} // namespace emulation

using namespace emulation;

const Kernel *emulation_find(const Module *module, const char *name) {
    const Kernel *kernel = *module->kernels;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    return kernel;
}

int64_t emulation_run(Launch *asked) {
    const std::lock_guard only(one_launch);
    launch = asked;
    launch->message[0] = 0;
    blockDim = {launch->threads, 1, 1};
    gridDim = {launch->blocks[0], launch->blocks[1], launch->blocks[2]};
    int64_t declared = -1;
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++) {
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                if (!run_block()) {
                    memcpy(launch->block, &blockIdx, sizeof launch->block);
                    // Their threads stay where they are for ever: fibers begin anew.
                    idle.clear();
                    for (Fiber &fiber : fibers) {
                        prepare(fiber);
                        idle.push_back(&fiber);
                    }
                    return -1;
                }
                if (declared < 0) declared = touched(launch->module->shared, launch->module->shared_end);
            }
        }
    }
    return declared;
}
