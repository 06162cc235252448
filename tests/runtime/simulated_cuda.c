/* A CUDA driver without a GPU: the calls that running an engine takes, with the rules of the real one.

   Nothing that a stream is given happens before somebody waits for the stream; what is captured does not run; memory
   holds rubbish until it is written; a call without a current context is refused. At the end of the process it prints
   what was not given back.

   gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o libcuda.so.1 simulated_cuda.c
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201,
       INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801, CAPTURE_INVALID = 901 };
typedef int CUresult;
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { Copy *copies; size_t count; } List;
typedef struct { List todo, captured; int capturing; } Stream;

static size_t contexts, streams, graphs, execs, device_blocks, host_blocks, device_bytes;
static __thread void *current;
static char context_token;

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static int fails(const char *call) { return strcmp(setting("SIMULATED_CUDA_FAILS", ""), call) == 0; }

static void add(List *list, Copy copy) {
    list->copies = realloc(list->copies, (list->count + 1) * sizeof(Copy));
    list->copies[list->count++] = copy;
}

static void drop(List *list) {
    free(list->copies);
    memset(list, 0, sizeof *list);
}

#define CURRENT(call) do { if (!current) return INVALID_CONTEXT; if (fails(call)) return ILLEGAL_ADDRESS; } while (0)

__attribute__((destructor)) static void report(void) {
    if (getenv("SIMULATED_CUDA_REPORT"))
        fprintf(stderr, "left: %zu contexts, %zu streams, %zu graphs, %zu execs, %zu device, %zu host\n", contexts,
                streams, graphs, execs, device_blocks, host_blocks);
}

EXPORT CUresult cuInit(unsigned flags) { (void)flags; return fails("cuInit") ? NO_DEVICE : SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
EXPORT CUresult cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
EXPORT CUresult cuDeviceGet(int *device, int index) { *device = index; return index == 0 ? SUCCESS : INVALID_DEVICE; }
EXPORT CUresult cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    snprintf(name, size, "Simulated GPU");
    return SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 6 : 1;
    return SUCCESS;
}
EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, int device) {
    (void)device;
    *major = 8, *minor = 6;
    return SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(void **context, int device) {
    (void)device;
    if (fails("cuDevicePrimaryCtxRetain")) return OUT_OF_MEMORY;
    contexts++, *context = &context_token;
    return SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(int device) { (void)device; contexts--; return SUCCESS; }
EXPORT CUresult cuCtxPushCurrent_v2(void *context) { current = context; return SUCCESS; }
EXPORT CUresult cuCtxPopCurrent_v2(void **context) { *context = current; current = NULL; return SUCCESS; }
EXPORT CUresult cuCtxSetCurrent(void *context) { current = context; return SUCCESS; }
EXPORT CUresult cuCtxGetCurrent(void **context) { *context = current; return SUCCESS; }
EXPORT CUresult cuCtxGetDevice(int *device) { *device = 0; return current ? SUCCESS : INVALID_CONTEXT; }
EXPORT CUresult cuCtxGetApiVersion(void *context, unsigned *version) { (void)context; *version = 13000; return SUCCESS; }
EXPORT CUresult cuCtxSynchronize(void) { return current ? SUCCESS : INVALID_CONTEXT; }

EXPORT CUresult cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    CURRENT("cuStreamCreate");
    *stream = calloc(1, sizeof(Stream));
    streams++;
    return SUCCESS;
}
EXPORT CUresult cuStreamDestroy_v2(void *stream) { drop(&((Stream *)stream)->todo); free(stream); streams--; return SUCCESS; }
EXPORT CUresult cuStreamSynchronize(void *handle) {
    Stream *stream = handle;
    CURRENT("cuStreamSynchronize");
    if (stream->capturing) return CAPTURE_INVALID;
    for (size_t index = 0; index < stream->todo.count; index++) {
        Copy *copy = &stream->todo.copies[index];
        memcpy(copy->to, copy->from, copy->size);
    }
    drop(&stream->todo);
    return SUCCESS;
}
EXPORT CUresult cuMemAlloc_v2(uintptr_t *address, size_t size) {
    CURRENT("cuMemAlloc");
    if (device_bytes + size > strtoull(setting("SIMULATED_CUDA_BYTES", "1073741824"), NULL, 10)) return OUT_OF_MEMORY;
    size_t *block = malloc(size + 16);
    *block = size, device_bytes += size, device_blocks++;
    memset((char *)block + 16, 0xCD, size);
    *address = (uintptr_t)block + 16;
    return SUCCESS;
}
EXPORT CUresult cuMemFree_v2(uintptr_t address) {
    CURRENT("cuMemFree");
    size_t *block = (size_t *)(address - 16);
    device_bytes -= *block, device_blocks--;
    free(block);
    return SUCCESS;
}
EXPORT CUresult cuMemHostAlloc(void **host, size_t size, unsigned flags) {
    (void)flags;
    CURRENT("cuMemHostAlloc");
    *host = malloc(size), host_blocks++;
    memset(*host, 0xCD, size);
    return SUCCESS;
}
EXPORT CUresult cuMemFreeHost(void *host) { CURRENT("cuMemFreeHost"); free(host); host_blocks--; return SUCCESS; }

static CUresult give(Stream *stream, Copy copy) {
    add(stream->capturing ? &stream->captured : &stream->todo, copy);
    return SUCCESS;
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(uintptr_t to, const void *from, size_t size, void *stream) {
    CURRENT("cuMemcpyHtoDAsync");
    return give(stream, (Copy){(void *)to, from, size});
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, uintptr_t from, size_t size, void *stream) {
    CURRENT("cuMemcpyDtoHAsync");
    return give(stream, (Copy){to, (void *)from, size});
}

EXPORT CUresult cuStreamBeginCapture_v2(void *handle, int mode) {
    Stream *stream = handle;
    CURRENT("cuStreamBeginCapture");
    if (stream->capturing || mode != 1) return INVALID_VALUE;
    stream->capturing = 1;
    return SUCCESS;
}
EXPORT CUresult cuStreamEndCapture(void *handle, void **graph) {
    Stream *stream = handle;
    CURRENT("cuStreamEndCapture");
    if (!stream->capturing) return INVALID_VALUE;
    List *made = malloc(sizeof *made);
    *made = stream->captured, *graph = made, graphs++;
    memset(&stream->captured, 0, sizeof stream->captured);
    stream->capturing = 0;
    return SUCCESS;
}
EXPORT CUresult cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) {
    CURRENT("cuGraphInstantiate");
    if (flags) return INVALID_VALUE;
    List *made = calloc(1, sizeof *made), *from = graph;
    for (size_t index = 0; index < from->count; index++) add(made, from->copies[index]);
    *exec = made, execs++;
    return SUCCESS;
}
EXPORT CUresult cuGraphDestroy(void *graph) { drop(graph); free(graph); graphs--; return SUCCESS; }
EXPORT CUresult cuGraphExecDestroy(void *exec) { drop(exec); free(exec); execs--; return SUCCESS; }
EXPORT CUresult cuGraphLaunch(void *exec, void *handle) {
    Stream *stream = handle;
    List *graph = exec;
    CURRENT("cuGraphLaunch");
    for (size_t index = 0; index < graph->count; index++) add(&stream->todo, graph->copies[index]);
    return SUCCESS;
}

/* pycuda links to all of the driver when it is imported. What the runner does not call is not simulated. */
#define ABSENT(name) EXPORT CUresult name(void); EXPORT CUresult name(void) { return NOT_SUPPORTED; }
ABSENT(cuArray3DCreate_v2) ABSENT(cuArray3DGetDescriptor_v2) ABSENT(cuArrayCreate_v2) ABSENT(cuArrayDestroy)
ABSENT(cuArrayGetDescriptor_v2) ABSENT(cuCtxAttach) ABSENT(cuCtxCreate_v4) ABSENT(cuCtxDetach)
ABSENT(cuCtxDisablePeerAccess) ABSENT(cuCtxEnablePeerAccess) ABSENT(cuCtxGetCacheConfig) ABSENT(cuCtxGetLimit)
ABSENT(cuCtxGetSharedMemConfig) ABSENT(cuCtxSetCacheConfig) ABSENT(cuCtxSetLimit)
ABSENT(cuCtxSetSharedMemConfig) ABSENT(cuDeviceCanAccessPeer) ABSENT(cuDeviceGetByPCIBusId)
ABSENT(cuDeviceGetPCIBusId) ABSENT(cuDeviceTotalMem_v2) ABSENT(cuEventCreate) ABSENT(cuEventDestroy_v2)
ABSENT(cuEventElapsedTime_v2) ABSENT(cuEventQuery) ABSENT(cuEventRecord) ABSENT(cuEventSynchronize)
ABSENT(cuFuncGetAttribute) ABSENT(cuFuncSetAttribute) ABSENT(cuFuncSetBlockShape) ABSENT(cuFuncSetCacheConfig)
ABSENT(cuFuncSetSharedSize) ABSENT(cuIpcCloseMemHandle) ABSENT(cuIpcGetEventHandle) ABSENT(cuIpcGetMemHandle)
ABSENT(cuIpcOpenEventHandle) ABSENT(cuIpcOpenMemHandle_v2) ABSENT(cuLaunch) ABSENT(cuLaunchGrid)
ABSENT(cuLaunchGridAsync) ABSENT(cuLaunchKernel) ABSENT(cuLinkAddData_v2) ABSENT(cuLinkAddFile_v2)
ABSENT(cuLinkComplete) ABSENT(cuLinkCreate_v2) ABSENT(cuLinkDestroy) ABSENT(cuMemAllocManaged)
ABSENT(cuMemAllocPitch_v2) ABSENT(cuMemGetAddressRange_v2) ABSENT(cuMemGetInfo_v2)
ABSENT(cuMemHostGetDevicePointer_v2) ABSENT(cuMemHostGetFlags) ABSENT(cuMemHostRegister_v2)
ABSENT(cuMemHostUnregister) ABSENT(cuMemcpy2DAsync_v2) ABSENT(cuMemcpy2DUnaligned_v2) ABSENT(cuMemcpy2D_v2)
ABSENT(cuMemcpy3DAsync_v2) ABSENT(cuMemcpy3DPeer) ABSENT(cuMemcpy3DPeerAsync) ABSENT(cuMemcpy3D_v2)
ABSENT(cuMemcpyAtoA_v2) ABSENT(cuMemcpyAtoD_v2) ABSENT(cuMemcpyAtoH_v2) ABSENT(cuMemcpyDtoA_v2)
ABSENT(cuMemcpyDtoDAsync_v2) ABSENT(cuMemcpyDtoD_v2) ABSENT(cuMemcpyDtoH_v2) ABSENT(cuMemcpyHtoA_v2)
ABSENT(cuMemcpyHtoD_v2) ABSENT(cuMemcpyPeer) ABSENT(cuMemcpyPeerAsync) ABSENT(cuMemsetD16Async)
ABSENT(cuMemsetD16_v2) ABSENT(cuMemsetD2D16Async) ABSENT(cuMemsetD2D16_v2) ABSENT(cuMemsetD2D32Async)
ABSENT(cuMemsetD2D32_v2) ABSENT(cuMemsetD2D8Async) ABSENT(cuMemsetD2D8_v2) ABSENT(cuMemsetD32Async)
ABSENT(cuMemsetD32_v2) ABSENT(cuMemsetD8Async) ABSENT(cuMemsetD8_v2) ABSENT(cuModuleGetFunction)
ABSENT(cuModuleGetGlobal_v2) ABSENT(cuModuleGetSurfRef) ABSENT(cuModuleGetTexRef) ABSENT(cuModuleLoad)
ABSENT(cuModuleLoadData) ABSENT(cuModuleLoadDataEx) ABSENT(cuModuleUnload) ABSENT(cuParamSetSize)
ABSENT(cuParamSetTexRef) ABSENT(cuParamSetf) ABSENT(cuParamSeti) ABSENT(cuParamSetv)
ABSENT(cuProfilerInitialize) ABSENT(cuProfilerStart) ABSENT(cuProfilerStop) ABSENT(cuStreamAttachMemAsync)
ABSENT(cuStreamQuery) ABSENT(cuStreamWaitEvent) ABSENT(cuSurfRefGetArray) ABSENT(cuSurfRefSetArray)
ABSENT(cuTexRefCreate) ABSENT(cuTexRefDestroy) ABSENT(cuTexRefGetAddressMode) ABSENT(cuTexRefGetAddress_v2)
ABSENT(cuTexRefGetArray) ABSENT(cuTexRefGetFilterMode) ABSENT(cuTexRefGetFlags) ABSENT(cuTexRefGetFormat)
ABSENT(cuTexRefSetAddress2D_v3) ABSENT(cuTexRefSetAddressMode) ABSENT(cuTexRefSetAddress_v2)
ABSENT(cuTexRefSetArray) ABSENT(cuTexRefSetFilterMode) ABSENT(cuTexRefSetFlags) ABSENT(cuTexRefSetFormat)

EXPORT CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == ILLEGAL_ADDRESS ? "an illegal memory access" : "an error";
    return SUCCESS;
}
EXPORT CUresult cuGetErrorName(CUresult error, const char **text) { return cuGetErrorString(error, text); }

/* The newest of what has versions, as the real one gives for the version that its callers ask for. */
EXPORT CUresult cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    char newest[128];
    (void)version, (void)flags;
    snprintf(newest, sizeof newest, "%s_v2", name);
    if (strcmp(name, "cuGraphInstantiate") == 0) snprintf(newest, sizeof newest, "cuGraphInstantiateWithFlags");
    *found = dlsym(RTLD_DEFAULT, newest);
    if (!*found) *found = dlsym(RTLD_DEFAULT, name);
    if (!*found) {
        void *own = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        *found = own ? dlsym(own, newest) : NULL;
        if (own && !*found) *found = dlsym(own, name);
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? SUCCESS : NOT_FOUND;
}
EXPORT CUresult cuGetProcAddress(const char *name, void **found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, NULL);
}
