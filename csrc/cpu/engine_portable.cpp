// The row-block engine compiled for any processor, in vectors of 16 bytes.
#include "engine.h"

#define LF_ENGINE portable_engine
#define LF_VECTOR_BYTES 16
#define LF_TILE_ROWS 4
#define LF_TILE_VECTORS 2
#include "block.h"
