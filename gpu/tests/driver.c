/* What NVIDIA's driver tells of the cards that there are: one V100, or what the environment says instead. Tests take it for the driver,
   and tests/gpu/card for a part of one. */

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

int cuDriverGetVersion(int *version) {
    *version = setting("DRIVER_CUDA", 12040);
    return 0;
}

int cuInit(unsigned flags) {
    return flags ? 1 : setting("DRIVER_INIT", 0);
}

int cuDeviceGetCount(int *count) {
    *count = 1;
    return 0;
}

int cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal ? 101 : 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    const char *known = getenv("DRIVER_CARD");
    snprintf(name, length, "%s", known ? known : "Tesla V100-SXM2-16GB");
    return device;
}

int cuDeviceGetUuid(unsigned char *uuid, int device) {
    for (int place = 0; place < 16; place++) uuid[place] = place * 17;
    return device;
}

int cuDeviceGetUuid_v2(unsigned char *uuid, int device) {
    cuDeviceGetUuid(uuid, device);
    uuid[0] = setting("DRIVER_MIG", 0);
    return device;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = setting("DRIVER_CAPABILITY", 70);
    int pools = setting("DRIVER_POOLS", 1);
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 115 ? pools : 0;
    return device;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    *bytes = (size_t)setting("DRIVER_MIB", 16 << 10) << 20;
    return device;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = &setting;
    return device ? device : setting("DRIVER_CONTEXT", 0);
}

int cuGetErrorName(int error, const char **name) {
    *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
    return 0;
}

int cuGetErrorString(int error, const char **text) {
    *text = error == 2 ? "out of memory" : "unknown error";
    return 0;
}
