// cuBLAS, of which products are asked for, and cuRAND. Matrices lie column by column.
#include "numbers.hpp"
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

// cudaDataType
Type type_of(int code) {
    switch (code) {
    case 0: return Type::f32;
    case 1: return Type::f64;
    case 2: return Type::f16;
    case 14: return Type::bf16;
    }
    fprintf(stderr, "card: no product in cudaDataType %d\n", code);
    abort();
}

struct Operand {
    Type type;
    const void *elements;
    bool transposed;
    size_t stride, from;
    double at(size_t row, size_t column) const {
        return read(type, elements, from + (transposed ? row * stride + column : column * stride + row));
    }
};

} // namespace

extern "C" {

int cublasCreate_v2(void **handle) { return *handle = (void *)&type_of, 0; }
int cublasDestroy_v2(void *) { return 0; }
int cublasSetStream_v2(void *, void *) { return 0; }
int cublasSetMathMode(void *, int) { return 0; }

int cublasGemmStridedBatchedEx(
    void *, int transpose_a, int transpose_b, int rows, int columns, int inner, const float *alpha, const void *a, int a_type, int a_stride,
    long long a_step, const void *b, int b_type, int b_stride, long long b_step, const float *beta, void *c, int c_type, int c_stride,
    long long c_step, int batch, int, int
) {
    for (size_t item = 0; item < (size_t)batch; item++) {
        Operand left{type_of(a_type), a, transpose_a != 0, (size_t)a_stride, item * a_step};
        Operand right{type_of(b_type), b, transpose_b != 0, (size_t)b_stride, item * b_step};
        std::vector<float> row(inner), column(inner);
        std::vector<float> of_left((size_t)rows * inner);
        for (int i = 0; i < rows; i++) for (int k = 0; k < inner; k++) of_left[(size_t)i * inner + k] = left.at(i, k);
        for (int j = 0; j < columns; j++) {
            for (int k = 0; k < inner; k++) column[k] = right.at(k, j);
            for (int i = 0; i < rows; i++) {
                float sum = 0;
                for (int k = 0; k < inner; k++) sum += of_left[(size_t)i * inner + k] * column[k];
                size_t place = item * c_step + (size_t)j * c_stride + i;
                // What is there may be undefined where nothing of it is asked for.
                double before = *beta != 0 ? *beta * read(type_of(c_type), c, place) : 0;
                write(type_of(c_type), c, place, *alpha * sum + before);
            }
        }
    }
    return 0;
}

int cublasSgemmStridedBatched(
    void *handle, int transpose_a, int transpose_b, int rows, int columns, int inner, const float *alpha, const float *a, int a_stride,
    long long a_step, const float *b, int b_stride, long long b_step, const float *beta, float *c, int c_stride, long long c_step, int batch
) {
    return cublasGemmStridedBatchedEx(
        handle, transpose_a, transpose_b, rows, columns, inner, alpha, a, 0, a_stride, a_step, b, 0, b_stride, b_step, beta, c, 0, c_stride,
        c_step, batch, 0, 0
    );
}

int curandCreateGenerator(void **generator, int) { return *generator = (void *)&type_of, 0; }
int curandDestroyGenerator(void *) { return 0; }
int curandSetStream(void *, void *) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
int curandGenerateUniform(void *, float *to, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = (i * 2654435761u % 1000003 + 1) / 1000003.0f;
    return 0;
}

int cublasLtCreate(void **handle) { return *handle = (void *)&type_of, 0; }
int cublasLtDestroy(void *) { return 0; }

} // extern "C"
