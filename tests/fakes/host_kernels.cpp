// The CUDA kernels compiled as plain C++: a launch is four loops. For tests on machines without a GPU.
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__

namespace {
struct Index {
    unsigned x, y, z;
};
thread_local Index blockIdx, blockDim, threadIdx;
}  // namespace

#include "kernels.cu"

namespace {

template <class Job>
void run(void (*kernel)(Job), const void* parameters, const unsigned grid[3], const unsigned block[3]) {
    Job job;
    std::memcpy(&job, parameters, sizeof job);
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; ++blockIdx.x)
                for (threadIdx.z = 0; threadIdx.z < block[2]; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < block[1]; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < block[0]; ++threadIdx.x) kernel(job);
}

struct Kernel {
    const char* name;
    size_t size;  // of its job
    void (*letterbox)(LetterboxJob);
    void (*align)(AlignJob);
};

const Kernel kernels[] = {
    {"edgeface_letterbox_bgr", sizeof(LetterboxJob), edgeface_letterbox_bgr, nullptr},
    {"edgeface_letterbox_nv12", sizeof(LetterboxJob), edgeface_letterbox_nv12, nullptr},
    {"edgeface_align_positions", sizeof(AlignJob), nullptr, edgeface_align_positions},
    {"edgeface_align_bgr", sizeof(AlignJob), nullptr, edgeface_align_bgr},
    {"edgeface_align_nv12", sizeof(AlignJob), nullptr, edgeface_align_nv12},
};

const Kernel* find(const char* name) {
    for (const Kernel& kernel : kernels)
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    return nullptr;
}

}  // namespace

extern "C" {

// Size of a kernel's job in bytes, or 0 where there is no such kernel.
__attribute__((visibility("default"))) size_t host_kernel(const char* name) {
    const Kernel* kernel = find(name);
    return kernel == nullptr ? 0 : kernel->size;
}

__attribute__((visibility("default"))) void host_launch(const char* name, const void* job, const unsigned grid[3],
                                                        const unsigned block[3]) {
    const Kernel* kernel = find(name);
    if (kernel->letterbox != nullptr)
        run(kernel->letterbox, job, grid, block);
    else
        run(kernel->align, job, grid, block);
}

// Offsets of what Python fills in, in the order of the dtypes of edgeface/runtime/cuda_kernels.py.
__attribute__((visibility("default"))) size_t host_layout(int of_align, size_t* offsets) {
    size_t count = 0;
#define AT(job, member) offsets[count++] = offsetof(job, member)
#define PICTURE(job) \
    AT(job, picture.data), AT(job, picture.stride), AT(job, picture.height), AT(job, picture.width), \
        AT(job, picture.camera.luma), AT(job, picture.camera.v_to_red), AT(job, picture.camera.u_to_green), \
        AT(job, picture.camera.v_to_green), AT(job, picture.camera.u_to_blue), AT(job, picture.camera.black)
#define CHANNELS(job) AT(job, channels.factor), AT(job, channels.summand), AT(job, channels.rgb)
    if (of_align) {
        PICTURE(AlignJob);
        AT(AlignJob, out), AT(AlignJob, matrices), AT(AlignJob, positions), AT(AlignJob, height), AT(AlignJob, width);
        CHANNELS(AlignJob);
        return count;
    }
    PICTURE(LetterboxJob);
    AT(LetterboxJob, out), AT(LetterboxJob, first_y), AT(LetterboxJob, first_x), AT(LetterboxJob, weights_y);
    AT(LetterboxJob, weights_x), AT(LetterboxJob, taps_y), AT(LetterboxJob, taps_x), AT(LetterboxJob, height);
    AT(LetterboxJob, width), AT(LetterboxJob, top), AT(LetterboxJob, left), AT(LetterboxJob, rows);
    AT(LetterboxJob, columns);
    CHANNELS(LetterboxJob);
    AT(LetterboxJob, pad);
    return count;
}

}
