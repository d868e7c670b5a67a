// The CUDA kernels: which pixel each thread makes. What a pixel is stands in pixels.hpp.
// Launched by edgeface/runtime/cuda_kernels.py; compiled by fatbin.py.
#include "pixels.hpp"

using namespace edgeface::cuda;

namespace {

// One thread a pixel of the tensor. A warp makes 32 neighbours of a row, so that its stores are whole lines and its
// loads are neighbours too; every source pixel is read once (shrinking) or comes from the first-level cache.
template <class Reader>
__device__ void letterbox(const LetterboxJob& job) {
    const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
    if (x < job.width && y < job.height) letterbox_pixel<Reader>(job, x, y);
}

template <class Reader>
__device__ void align(const AlignJob& job) {
    const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y);
    if (x < job.width && y < job.height) align_pixel<Reader>(job, x, y, static_cast<int>(blockIdx.z));
}

}  // namespace

extern "C" {

__global__ void edgeface_letterbox_bgr(const LetterboxJob job) { letterbox<BgrReader>(job); }
__global__ void edgeface_letterbox_nv12(const LetterboxJob job) { letterbox<Nv12Reader>(job); }

// One block a face. In double, which GPUs of boards do slowly: so once for each row and column, not for each pixel.
__global__ void edgeface_align_positions(const AlignJob job) {
    align_positions(job, static_cast<int>(blockIdx.z), static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

__global__ void edgeface_align_bgr(const AlignJob job) { align<BgrReader>(job); }
__global__ void edgeface_align_nv12(const AlignJob job) { align<Nv12Reader>(job); }

}
