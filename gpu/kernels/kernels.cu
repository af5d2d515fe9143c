// Every kernel, for one element type: compiled once each with ELEMENT_F32, ELEMENT_F16 and ELEMENT_BF16.

#include "element.cuh"

#include "attention.cuh"
#include "norm.cuh"
#include "patches.cuh"
#include "pointwise.cuh"
#include "resample.cuh"
#include "softmax.cuh"
#include "transpose.cuh"
