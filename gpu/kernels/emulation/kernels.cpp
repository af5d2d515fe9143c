// Every kernel as functions of the host, for one element type.

#if defined(ELEMENT_F32)
#define ELEMENT_NAME f32
#elif defined(ELEMENT_F16)
#define ELEMENT_NAME f16
#else
#define ELEMENT_NAME bf16
#endif

#include "device.hpp"

// Functions of the same name differ between element types.
namespace {
#include "../kernels.cu"
#include "probes.cuh"
} // namespace

#define JOINED_OF(a, b) a##b
#define JOINED(a, b) JOINED_OF(a, b)
#define SHARED JOINED(__start_shared_, ELEMENT_NAME)
#define SHARED_END JOINED(__stop_shared_, ELEMENT_NAME)

// The linker's names for a section's ends; weak, since there may be no kernel that declares shared memory.
extern "C" char SHARED[] __attribute__((weak)), SHARED_END[] __attribute__((weak));

const emulation::Module JOINED(emulation_, ELEMENT_NAME) = {&emulation::kernels, SHARED, SHARED_END};
