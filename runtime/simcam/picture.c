/* From the pixels of a part to those of a frame: the region of interest, in the camera's pixel format. */
#include <string.h>

#include "sim.h"

static size_t line_bits(const struct registers *registers) {
    switch (registers->pixel_format) {
    case PFNC_MONO12P: return (size_t)registers->width * 12;
    case PFNC_RGB8: return (size_t)registers->width * 24;
    default: return (size_t)registers->width * 8;
    }
}

/* Lines of packed pixels follow each other within a byte, unless lines are padded: then each begins with one. */
size_t picture_size(const struct camera *camera) {
    const size_t bits = line_bits(&camera->registers), height = camera->registers.height;
    if (camera->padding == 0) return (bits * height + 7) / 8;
    return ((bits + 7) / 8 + camera->padding) * height;
}

/* The low bits of a deep pixel are a pattern of its place, so that it can be seen whether they are taken for high ones. */
static void put_12(uint8_t *target, size_t bit, uint32_t value, uint32_t pattern) {
    const uint32_t deep = value << 4 | (pattern & 15);
    uint8_t *byte = target + bit / 8;
    if (bit % 8 == 0) {
        byte[0] = (uint8_t)deep;
        byte[1] = (uint8_t)((byte[1] & 0xF0) | deep >> 8);
    } else {
        byte[0] = (uint8_t)((byte[0] & 0x0F) | (deep & 15) << 4);
        byte[1] = (uint8_t)(deep >> 4);
    }
}

/* The picture, in memory that has room for it. */
static void write_whole(const struct camera *camera, const uint8_t *pixels, uint8_t *target) {
    const struct registers *registers = &camera->registers;
    const size_t channels = camera->feed.channels, width = registers->width, bits = line_bits(registers);
    const size_t stride_bits = camera->padding == 0 ? bits : ((bits + 7) / 8 + camera->padding) * 8;
    for (size_t row = 0; row < registers->height; row++) {
        const size_t y = row + registers->offset_y;
        const uint8_t *source = pixels + (y * camera->feed.width + registers->offset_x) * channels;
        uint8_t *line = target + row * stride_bits / 8;
        switch (registers->pixel_format) {
        case PFNC_MONO12P:
            for (size_t x = 0; x < width; x++)
                put_12(target, row * stride_bits + 12 * x, source[x], (uint32_t)(x + row));
            break;
        case PFNC_BAYER_RG8: /* red where row and column are even, blue where both are odd, green between */
            for (size_t x = 0; x < width; x++) line[x] = source[3 * x + (y & 1) + ((x + registers->offset_x) & 1)];
            break;
        default: memcpy(line, source, width * channels);
        }
    }
}

/* Writes as much as there is room for; says how much. */
size_t picture_write(const struct camera *camera, const uint8_t *pixels, uint8_t *target, size_t room) {
    const size_t size = picture_size(camera);
    if (size > room) return 0;
    if (camera->padding != 0) memset(target, 0xA5, size);
    write_whole(camera, pixels, target);
    return size;
}
