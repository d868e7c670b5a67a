/* Stands for the NVIDIA driver, so that the real pycuda runs on a machine without a GPU: memory is malloc, copies are
 * memcpy and done at once, kernels are those that g++ compiled (EDGEFACE_HOST_KERNELS names them). Preloaded before pycuda. Counts what is alive, and what a real driver would punish. */
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST 4096
#define DEPTH 16
enum kind { DEVICE, HOST, STREAM, EVENT, MODULE, KINDS };

static struct { void *at; size_t size; enum kind kind; int mapped; } blocks[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long alive[KINDS], allocations, misuses, retained;
static int broken, fault_code, fault_sticky;
static long fault_after = -1;
static char fault_call[64], misuse[128] = "";
static __thread CUcontext stack[DEPTH];
static __thread int depth;
static int the_context, integrated = 1;

/* What the tests ask for. */
void fake_fail(const char *call, long after, int code, int sticky)
{
    strncpy(fault_call, call, sizeof fault_call - 1);
    fault_after = after, fault_code = code, fault_sticky = sticky;
}
void fake_integrated(int yes) { integrated = yes; }
long fake_alive(int kind) { return alive[kind]; }
long fake_allocations(void) { return allocations; }
long fake_misuses(void) { return misuses; }
const char *fake_misuse(void) { return misuse; }
long fake_retained(void) { return retained; }
int fake_depth(void) { return depth; }

static CUresult wrong(const char *what, CUresult code)
{
    misuses++;
    strncpy(misuse, what, sizeof misuse - 1);
    return code;
}

static int meant(const char *call) /* cuMemAlloc means cuMemAlloc_v2, not cuMemAllocManaged */
{
    size_t length = strlen(fault_call);
    return length && strncmp(call, fault_call, length) == 0 && (call[length] == 0 || call[length] == '_');
}

static CUresult enter(const char *call, int needs_context)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    if (fault_after >= 0 && meant(call) && fault_after-- == 0) {
        fault_call[0] = 0;
        result = fault_code;
        if (fault_sticky) broken = fault_code;
    } else if (broken && needs_context) {
        result = broken;
    } else if (needs_context && depth == 0) {
        result = wrong(call, CUDA_ERROR_INVALID_CONTEXT);
    }
    pthread_mutex_unlock(&lock);
    return result;
}
#define ENTER(needs) do { CUresult r_ = enter(__func__, needs); if (r_) return r_; } while (0)

static int find(const void *at)
{
    for (int i = 0; i < MOST; i++)
        if (blocks[i].at && (char *)at >= (char *)blocks[i].at && (char *)at < (char *)blocks[i].at + blocks[i].size) return i;
    return -1;
}

size_t fake_size(uintptr_t at)
{
    pthread_mutex_lock(&lock);
    int i = find((void *)at);
    size_t size = i < 0 ? 0 : blocks[i].size - (at - (uintptr_t)blocks[i].at);
    pthread_mutex_unlock(&lock);
    return size;
}

static CUresult take(void **out, size_t size, enum kind kind, int mapped)
{
    CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MOST && result; i++)
        if (!blocks[i].at) {
            void *at = aligned_alloc(256, (size + 255) / 256 * 256);
            memset(at, 0xff, size); /* not a number */
            blocks[i].at = at, blocks[i].size = size, blocks[i].kind = kind, blocks[i].mapped = mapped;
            alive[kind]++, allocations++;
            *out = at;
            result = CUDA_SUCCESS;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

static CUresult give(void *at, enum kind kind, const char *call)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&lock);
    int i = find(at);
    if (i < 0 || blocks[i].at != at || blocks[i].kind != kind) {
        result = wrong(call, CUDA_ERROR_INVALID_VALUE);
    } else {
        memset(at, 0xff, blocks[i].size);
        free(at);
        blocks[i].at = 0;
        alive[kind]--;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuInit(unsigned flags) { return enter(__func__, 0); }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
          : code == CUDA_ERROR_ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
          : code == CUDA_ERROR_NO_BINARY_FOR_GPU ? "no kernel image is available for execution on the device"
          : "made-up failure";
    return CUDA_SUCCESS;
}
CUresult cuDeviceGet(CUdevice *device, int number) { *device = number; return enter(__func__, 0); }
CUresult cuDeviceGetCount(int *count) { *count = 1; return enter(__func__, 0); }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) { strncpy(name, "Orin", size); return CUDA_SUCCESS; }
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) { *major = 8, *minor = 7; return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) { *bytes = 8ul << 30; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
    *value = which == CU_DEVICE_ATTRIBUTE_INTEGRATED ? integrated : 0;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    ENTER(0);
    retained++;
    *context = (CUcontext)&the_context;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device)
{
    ENTER(0);
    if (--retained < 0) return wrong("released more often than retained", CUDA_ERROR_INVALID_CONTEXT);
    if (retained > 0) return CUDA_SUCCESS;
    for (int kind = 0; kind < KINDS; kind++) {
        if (alive[kind] && !broken) wrong("context released with something alive in it", CUDA_SUCCESS);
        if (broken) alive[kind] = 0; /* a broken context refuses to free, and takes with it what it held */
    }
    if (broken) memset(blocks, 0, sizeof blocks);
    broken = 0;
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context)
{
    ENTER(0);
    if (depth == DEPTH) return wrong("contexts pushed and never popped", CUDA_ERROR_INVALID_VALUE);
    stack[depth++] = context;
    return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext *context)
{
    ENTER(0);
    if (depth == 0) return wrong("cuCtxPopCurrent", CUDA_ERROR_INVALID_CONTEXT);
    *context = stack[--depth];
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; return enter(__func__, 1); }
CUresult cuCtxSynchronize(void) { return enter(__func__, 1); }
CUresult cuCtxDetach(CUcontext context) { return wrong("cuCtxDetach of a primary context", CUDA_ERROR_INVALID_CONTEXT); }
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) { ENTER(1); return take((void **)address, size, DEVICE, 0); }
CUresult cuMemFree(CUdeviceptr address) { ENTER(1); return give((void *)address, DEVICE, __func__); }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    ENTER(1);
    return take(address, size, HOST, !!(flags & CU_MEMHOSTALLOC_DEVICEMAP));
}
CUresult cuMemFreeHost(void *address) { ENTER(1); return give(address, HOST, __func__); }
CUresult cuMemHostGetDevicePointer(CUdeviceptr *address, void *host, unsigned flags)
{
    ENTER(1);
    int i = find(host);
    if (i < 0 || !blocks[i].mapped) return wrong("device pointer of memory that was not mapped", CUDA_ERROR_INVALID_VALUE);
    *address = (CUdeviceptr)host;
    return CUDA_SUCCESS;
}
static CUresult copy(void *to, const void *from, size_t size, CUstream stream, const char *call)
{
    if (find(stream) < 0) return wrong("copy on a stream that is not there", CUDA_ERROR_INVALID_HANDLE);
    if (fake_size((uintptr_t)to) < size || fake_size((uintptr_t)from) < size) return wrong(call, CUDA_ERROR_INVALID_VALUE);
    memcpy(to, from, size);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream)
{
    ENTER(1);
    return copy((void *)to, from, size, stream, __func__);
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream)
{
    ENTER(1);
    return copy(to, (void *)from, size, stream, __func__);
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream)
{
    ENTER(1);
    return copy((void *)to, (void *)from, size, stream, __func__);
}
CUresult cuMemGetInfo(size_t *left, size_t *total) { ENTER(1); *total = 8ul << 30, *left = *total - alive[DEVICE] * 4096; return CUDA_SUCCESS; }
CUresult cuStreamCreate(CUstream *stream, unsigned flags) { ENTER(1); return take((void **)stream, 256, STREAM, 0); }
CUresult cuStreamDestroy(CUstream stream) { ENTER(1); return give(stream, STREAM, __func__); }
CUresult cuStreamSynchronize(CUstream stream)
{
    ENTER(1);
    return find(stream) < 0 ? wrong("waiting for a stream that is not there", CUDA_ERROR_INVALID_HANDLE) : CUDA_SUCCESS;
}
CUresult cuEventCreate(CUevent *event, unsigned flags) { ENTER(1); return take((void **)event, 256, EVENT, 0); }
CUresult cuEventDestroy(CUevent event) { ENTER(1); return give(event, EVENT, __func__); }
CUresult cuEventRecord(CUevent event, CUstream stream) { return enter(__func__, 1); }
CUresult cuEventSynchronize(CUevent event) { return enter(__func__, 1); }

/* Kernels: a module is a block of memory, a function one of these names. */
static char functions[16][64];
static void *host(const char *symbol)
{
    static void *library;
    if (!library) library = dlopen(getenv("EDGEFACE_HOST_KERNELS"), RTLD_NOW);
    return library ? dlsym(library, symbol) : 0;
}
static size_t job_size(const char *name)
{
    size_t (*size)(const char *) = (size_t (*)(const char *))host("host_kernel");
    return size ? size(name) : 0;
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values)
{
    for (unsigned i = 0; i < count; i++) /* the logs are empty */
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) values[i] = 0;
    ENTER(1);
    if (memcmp(image, "\x50\xed\x55\xba", 4)) return wrong("no fat binary", CUDA_ERROR_INVALID_IMAGE);
    return take((void **)module, 256, MODULE, 0);
}
CUresult cuModuleUnload(CUmodule module) { ENTER(1); return give(module, MODULE, __func__); }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    ENTER(1);
    if (find(module) < 0 || !job_size(name)) return wrong(name, CUDA_ERROR_NOT_FOUND);
    for (int i = 0; i < 16; i++) {
        if (!functions[i][0]) strncpy(functions[i], name, sizeof functions[i] - 1);
        *function = (CUfunction)functions[i];
        if (!strcmp(functions[i], name)) return CUDA_SUCCESS;
    }
    return CUDA_ERROR_NOT_FOUND;
}
/* pycuda calls it before every launch; cuLaunchKernel does not need it. */
CUresult cuFuncSetBlockShape(CUfunction function, int x, int y, int z) { return enter(__func__, 1); }
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                        unsigned shared, CUstream stream, void **parameters, void **extra)
{
    ENTER(1);
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    const void *job = 0;
    size_t size = 0;
    for (; extra && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) job = extra[1];
        if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(size_t *)extra[1];
    }
    if (!alive[MODULE]) return wrong("launch from a module that was unloaded", CUDA_ERROR_INVALID_HANDLE);
    if (find(stream) < 0) return wrong("launch on a stream that is not there", CUDA_ERROR_INVALID_HANDLE);
    if (!job || size != job_size((const char *)function)) return wrong("launch with another struct", CUDA_ERROR_INVALID_VALUE);
    if (!gx || !gy || !gz || !bx || bx * by * bz > 1024) return wrong("launch of such a grid", CUDA_ERROR_INVALID_VALUE);
    if (!fake_size(*(const uintptr_t *)job)) return wrong("launch on a frame that is not there", CUDA_ERROR_ILLEGAL_ADDRESS);
    void (*launch)(const char *, const void *, const unsigned *, const unsigned *) = host("host_launch");
    launch((const char *)function, job, grid, block);
    return CUDA_SUCCESS;
}
