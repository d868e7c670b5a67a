#pragma once

#include <cstdint>

namespace edgeface {

// Factors of camera formats, see camera_coefficients() in edgeface/_kernels_py_pixels.py.
struct CameraColour {
    int16_t luma, v_to_red, u_to_green, v_to_green, u_to_blue;
    uint8_t black;
};

}  // namespace edgeface
