# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
# distutils: language = c++
"""The C++ kernels for Python: pointers out of arrays, the GIL off, one call. Nothing is computed here.

The signatures are those of `edgeface.kernels`, which documents them and has checked every argument. Arrays come
through the buffer protocol, so one build serves numpy 1.23 to 2.x.
"""

from cpython.buffer cimport PyBUF_STRIDED_RO, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from libcpp cimport bool as cbool

import os

import numpy as np

from edgeface.errors import ConfigurationError


cdef extern from "kernels.hpp" namespace "edgeface" nogil:
    cdef enum class PixelFormat:
        bgr, rgb, bgra, gray, nv12, i420, yuyv
    cdef enum class ElementType:
        float32, float16, int8
    struct Frame:
        const uint8_t* data
        Py_ssize_t stride
        int height, width
        PixelFormat format
    struct Tensor:
        void* data
        int height, width
        ElementType type
        cbool channels_last
    struct Colour:
        pass
    struct Place:
        int height, width, top, left
        float pad
    struct DetectorMap:
        const float* scores
        const float* objectness
        const float* boxes
        const float* landmarks
        int rows, columns, stride, anchors_per_cell
    struct DetectorOptions:
        float score_threshold, nms_iou
        size_t top_k, max_faces
        float blend_iou
    struct Detection:
        float box[4]
        float score
        float landmarks[10]
    struct Quality:
        double sharpness, exposure, contrast

    Colour make_colour(cbool, const double*, const double*, double, cbool, cbool)
    void c_letterbox "edgeface::letterbox"(const Frame&, const Tensor&, const Place&, const Colour&) except +
    void similarity_transforms(const float*, int, int, const double*, double*)
    void c_align "edgeface::align"(const Frame&, const double*, const Tensor&, const Colour&, uint8_t*) except +
    size_t decode(const DetectorMap*, size_t, const DetectorOptions&, const Detection**) except +
    void c_l2_normalize "edgeface::l2_normalize"(const float*, size_t, size_t, float*)
    void c_quantize_templates "edgeface::quantize_templates"(const float*, size_t, float, int8_t*)
    void c_scan_int8 "edgeface::scan_int8"(
        const int8_t*, size_t, size_t, const int8_t*, size_t, size_t, const uint8_t*, int64_t*, int32_t*) except +
    void c_scan_float32 "edgeface::scan_float32"(
        const float*, size_t, size_t, const float*, size_t, size_t, const uint8_t*, int64_t*, float*) except +
    Quality quality(const uint8_t*, int, int, cbool) except +
    uint64_t c_read_once "edgeface::read_once"(const uint8_t*, size_t)

cdef extern from "primitives.hpp" namespace "edgeface" nogil:
    struct Primitives:
        const char* name
    const Primitives& primitives()
    const char* const* available_primitives()
    cbool c_use_primitives "edgeface::use_primitives"(const char*)


cdef PixelFormat pixel_format_of(str name) except *:
    if name == "bgr": return PixelFormat.bgr
    if name == "rgb": return PixelFormat.rgb
    if name == "bgra": return PixelFormat.bgra
    if name == "gray": return PixelFormat.gray
    if name == "nv12": return PixelFormat.nv12
    if name == "i420": return PixelFormat.i420
    if name == "yuyv": return PixelFormat.yuyv
    raise ValueError(name)


cdef Colour colour_of(str color, mean, std, scale, str matrix, bint full_range) except *:
    cdef double[3] means, deviations
    means[0], means[1], means[2] = mean
    deviations[0], deviations[1], deviations[2] = std
    return make_colour(
        color == "rgb", means, deviations, 1.0 if scale is None else scale, matrix == "bt709", full_range)


cdef class Buffer:
    """Holds an array's memory for the length of a call."""

    cdef Py_buffer view

    def __cinit__(self, object array, bint write=False):
        PyObject_GetBuffer(array, &self.view, PyBUF_STRIDED_RO | (PyBUF_WRITABLE if write else 0))

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


cdef Frame frame_of(Buffer buffer, str pixel_format) except *:
    cdef Frame frame
    frame.data = <const uint8_t*> buffer.view.buf
    frame.stride = buffer.view.strides[0]
    frame.height = <int> buffer.view.shape[0]
    frame.width = <int> buffer.view.shape[1]
    frame.format = pixel_format_of(pixel_format)
    if frame.format == PixelFormat.nv12 or frame.format == PixelFormat.i420:
        frame.height = frame.height // 3 * 2
    return frame


cdef Tensor tensor_of(Buffer buffer, bint channels_last):
    """Of the last three axes; `data` is that of the first picture."""
    cdef Tensor tensor
    cdef int axes = buffer.view.ndim
    tensor.data = buffer.view.buf
    tensor.height = <int> buffer.view.shape[axes - 3 if channels_last else axes - 2]
    tensor.width = <int> buffer.view.shape[axes - 2 if channels_last else axes - 1]
    tensor.channels_last = channels_last
    tensor.type = (ElementType.float32 if buffer.view.itemsize == 4
                   else ElementType.float16 if buffer.view.itemsize == 2 else ElementType.int8)
    return tensor


def letterbox(frame, out, *, resized, offset, str pixel_format, str color, mean, std, float pad, str layout, scale,
              str matrix, bint full_range):
    cdef Buffer pixels = Buffer(frame), target = Buffer(out, True)
    cdef Frame source = frame_of(pixels, pixel_format)
    cdef Tensor tensor = tensor_of(target, layout == "nhwc")
    cdef Colour colour = colour_of(color, mean, std, scale, matrix, full_range)
    cdef Place place
    place.height, place.width = resized
    place.top, place.left = offset
    place.pad = pad
    with nogil:
        c_letterbox(source, tensor, place, colour)


def similarity_transform(const float[:, :, ::1] landmarks, const double[:, ::1] template):
    matrices = np.empty((landmarks.shape[0], 2, 3), np.float64)
    cdef double[:, :, ::1] found = matrices
    if landmarks.shape[0]:
        with nogil:
            similarity_transforms(
                &landmarks[0, 0, 0], <int> landmarks.shape[0], <int> landmarks.shape[1], &template[0, 0], &found[0, 0, 0])
    return matrices


def align(frame, const float[:, :, ::1] landmarks, const double[:, ::1] template, out, *, str pixel_format, str color,
          mean, std, str layout, scale, crops, str matrix, bint full_range):
    cdef Py_ssize_t faces = landmarks.shape[0], face, tensor_bytes, crop_bytes
    if faces == 0:
        return
    cdef Buffer pixels = Buffer(frame), target = Buffer(out, True)
    cdef Buffer pictures = None if crops is None else Buffer(crops, True)
    cdef Frame source = frame_of(pixels, pixel_format)
    cdef Tensor tensor = tensor_of(target, layout == "nhwc")
    cdef Colour colour = colour_of(color, mean, std, scale, matrix, full_range)
    cdef uint8_t* crop = NULL
    if crops is not None:
        crop = <uint8_t*> pictures.view.buf
    cdef double transform[6]
    tensor_bytes = target.view.len // faces
    crop_bytes = <Py_ssize_t> tensor.height * tensor.width * 3
    with nogil:
        for face in range(faces):
            similarity_transforms(&landmarks[face, 0, 0], 1, <int> landmarks.shape[1], &template[0, 0], transform)
            c_align(source, transform, tensor, colour, crop)
            tensor.data = <char*> tensor.data + tensor_bytes
            if crop != NULL:
                crop += crop_bytes


cdef const float* floats_of(object array, list held) except? NULL:
    cdef Buffer buffer = Buffer(array)
    held.append(buffer)
    return <const float*> buffer.view.buf


cdef tuple decoded(object outputs, size, strides, tuple names, float score_threshold, float nms_iou, size_t top_k,
                   max_faces, blend_iou, int anchors):
    cdef DetectorMap maps[16]
    cdef DetectorOptions options
    cdef const Detection* found = NULL
    cdef size_t count = 0, faces, i
    cdef list held = []
    cdef float[:, ::1] boxes, landmarks
    cdef float[::1] scores
    for stride in strides:
        maps[count].scores = floats_of(outputs[f"{names[0]}_{stride}"], held)
        maps[count].objectness = floats_of(outputs[f"obj_{stride}"], held) if len(names) == 4 else NULL
        maps[count].boxes = floats_of(outputs[f"bbox_{stride}"], held)
        maps[count].landmarks = floats_of(outputs[f"kps_{stride}"], held)
        maps[count].rows = -(-size[0] // stride)
        maps[count].columns = -(-size[1] // stride)
        maps[count].stride = stride
        maps[count].anchors_per_cell = anchors
        count += 1
    options.score_threshold = score_threshold
    options.nms_iou = nms_iou
    options.top_k = top_k
    options.max_faces = top_k if max_faces is None else max_faces
    options.blend_iou = 2 if blend_iou is None else blend_iou
    with nogil:
        faces = decode(maps, count, options, &found)
    result = np.empty((faces, 4), np.float32), np.empty(faces, np.float32), np.empty((faces, 5, 2), np.float32)
    boxes, scores, landmarks = result[0], result[1], result[2].reshape(faces, 10)
    for i in range(faces):
        memcpy(&boxes[i, 0], found[i].box, sizeof(found[i].box))
        scores[i] = found[i].score
        memcpy(&landmarks[i, 0], found[i].landmarks, sizeof(found[i].landmarks))
    return result


def decode_yunet(outputs, *, size, strides, score_threshold, nms_iou, top_k, max_faces, blend_iou):
    cdef tuple names = ("cls", "obj", "bbox", "kps")
    return decoded(outputs, size, strides, names, score_threshold, nms_iou, top_k, max_faces, blend_iou, 1)


def decode_scrfd(outputs, *, size, strides, score_threshold, nms_iou, top_k, max_faces, blend_iou, anchors):
    cdef tuple names = ("score", "bbox", "kps")
    return decoded(outputs, size, strides, names, score_threshold, nms_iou, top_k, max_faces, blend_iou, anchors)


def l2_normalize(const float[:, ::1] x, out):
    result = np.empty((x.shape[0], x.shape[1]), np.float32) if out is None else out
    cdef float[:, ::1] normal = result
    if x.shape[0] and x.shape[1]:
        with nogil:
            c_l2_normalize(&x[0, 0], x.shape[0], x.shape[1], &normal[0, 0])
    return result


def quantize_templates(const float[:, ::1] x, *, float scale, out):
    result = np.empty((x.shape[0], x.shape[1]), np.int8) if out is None else out
    cdef int8_t[:, ::1] quantised = result
    if x.shape[0] and x.shape[1]:
        with nogil:
            c_quantize_templates(&x[0, 0], x.shape[0] * x.shape[1], scale, &quantised[0, 0])
    return result


def scan_int8(templates, probes, size_t k, *, mask):
    cdef Buffer rows = Buffer(templates), queries = Buffer(probes)
    cdef Buffer allowed = None if mask is None else Buffer(mask)
    indices, dots = np.empty((len(probes), k), np.int64), np.empty((len(probes), k), np.int32)
    cdef int64_t[:, ::1] index_view = indices
    cdef int32_t[:, ::1] dot_view = dots
    cdef const uint8_t* mask_data = NULL
    if mask is not None:
        mask_data = <const uint8_t*> allowed.view.buf
    if index_view.shape[0]:
        with nogil:
            c_scan_int8(<const int8_t*> rows.view.buf, rows.view.shape[0], rows.view.shape[1],
                        <const int8_t*> queries.view.buf, queries.view.shape[0], k, mask_data,
                        &index_view[0, 0], &dot_view[0, 0])
    return indices, dots


def scan_float32(templates, probes, size_t k, *, mask):
    cdef Buffer rows = Buffer(templates), queries = Buffer(probes)
    cdef Buffer allowed = None if mask is None else Buffer(mask)
    indices, dots = np.empty((len(probes), k), np.int64), np.empty((len(probes), k), np.float32)
    cdef int64_t[:, ::1] index_view = indices
    cdef float[:, ::1] dot_view = dots
    cdef const uint8_t* mask_data = NULL
    if mask is not None:
        mask_data = <const uint8_t*> allowed.view.buf
    if index_view.shape[0]:
        with nogil:
            c_scan_float32(<const float*> rows.view.buf, rows.view.shape[0], rows.view.shape[1],
                           <const float*> queries.view.buf, queries.view.shape[0], k, mask_data,
                           &index_view[0, 0], &dot_view[0, 0])
    return indices, dots


cdef object measured(const uint8_t[:, :, :, ::1] crops, int which):
    values = np.empty(crops.shape[0], np.float32)
    cdef float[::1] view = values
    cdef Py_ssize_t i
    cdef Quality found
    with nogil:
        for i in range(crops.shape[0]):
            found = quality(&crops[i, 0, 0, 0], <int> crops.shape[1], <int> crops.shape[2], which == 0)
            view[i] = found.sharpness if which == 0 else found.exposure if which == 1 else found.contrast
    return values


def sharpness(crops):
    return measured(crops, 0)


def exposure(crops):
    return measured(crops, 1)


def contrast(crops):
    return measured(crops, 2)


def read_once(const uint8_t[::1] data):
    """Xor of all 64-bit words of `data`, each byte read once: what memory bandwidth alone allows."""
    cdef uint64_t mixed = 0
    if data.shape[0]:
        with nogil:
            mixed = c_read_once(&data[0], data.shape[0])
    return mixed


def simd():
    """Name of the instruction set whose inner loops are in use."""
    return primitives().name.decode()


def simd_available():
    """Names of the instruction sets this processor can run, plainest first."""
    cdef const char* const* name = available_primitives()
    names = []
    while name[0] != NULL:
        names.append(name[0].decode())
        name += 1
    return tuple(names)


def use_simd(str name):
    """Use another instruction set's loops in the whole process, for tests and benchmarks."""
    if not c_use_primitives(name.encode()):
        raise ConfigurationError(
            f"EDGEFACE_SIMD: expected one of {', '.join(simd_available())} on this processor, got {name!r}")


if os.environ.get("EDGEFACE_SIMD"):
    use_simd(os.environ["EDGEFACE_SIMD"])
