/* Faults that are injected from outside, through the mapped feed (inspectd.runtime.simcam.faults.Faults). */
#include <time.h>

#include "sim.h"

#define HANG_POLL_NS 1000000

bool fault_takes_one(_Atomic uint32_t *left) {
    uint32_t count = atomic_load(left);
    while (count > 0)
        if (atomic_compare_exchange_weak(left, &count, count - 1)) return true;
    return false;
}

bool faults_unplugged(const struct faults *faults) {
    return atomic_load(&faults->lost) != 0 || monotonic_ns() < atomic_load(&faults->reboot_until_ns);
}

/* Whether the link of an open camera is gone; once it is, it stays so until the camera is opened anew, even if the link
 * was back before anybody asked. */
bool camera_is_dead(struct camera *camera) {
    const struct faults *faults = feed_faults(&camera->feed);
    if (faults_unplugged(faults) || atomic_load(&faults->breaks) != camera->breaks) camera->dead = true;
    return camera->dead;
}

/* Whether the camera exposes nothing, whatever else it answers. */
bool camera_is_still(struct camera *camera) {
    const struct faults *faults = feed_faults(&camera->feed);
    return camera_is_dead(camera) || atomic_load(&faults->stalled) || atomic_load(&faults->silent);
}

/* Does not return while the producer is to hang; to be called without a lock. */
void camera_may_hang(const struct camera *camera) {
    const struct timespec moment = {0, HANG_POLL_NS};
    while (camera->local.open && atomic_load(&feed_faults(&camera->feed)->hanging)) nanosleep(&moment, NULL);
}

/* What a port of the remote device answers now: GC_OK, or how the link has failed. */
gc_error camera_link(struct camera *camera) {
    if (camera_is_dead(camera)) return fail(GC_IO, "camera %s does not answer: its link is gone", camera->name);
    if (atomic_load(&feed_faults(&camera->feed)->silent))
        return fail(GC_TIMEOUT, "camera %s has not answered in time", camera->name);
    return GC_OK;
}
