/* The rest of GenTL 1.6. Consumers look every function up and some call it unchecked: a missing one is a crash,
 * this is an error code. Callers pop their own arguments, so that none need be declared. */
#include "sim.h"

#define STUB(function)    \
    ENTRY function(void); \
    ENTRY function(void) { return fail(GC_NOT_IMPLEMENTED, #function " is not implemented"); }

STUB(DSAnnounceCompositeBuffer)
STUB(DSGetBufferChunkData)
STUB(DSGetBufferInfoStacked)
STUB(DSGetNumBufferParts)
STUB(DSGetBufferPartInfo)
STUB(DSGetBufferPartInfoStacked)
STUB(DSGetNumBufferSegments)
STUB(DSGetBufferSegmentInfo)
STUB(DSGetNumFlows)
STUB(DSGetFlowInfo)
