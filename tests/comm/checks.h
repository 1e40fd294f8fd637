// What any transport must do, as functions of a World: the same checks run on threads and on MPI processes.
// They report through GoogleTest's EXPECT, which may be used from any thread.
#pragma once

#include "parallel/comm/mesh.h"

namespace cadre::comm {

void check_all_to_all(World& world);
void check_all_gather(World& world);
void check_broadcast(World& world);
void check_all_reduce(World& world);
void check_reduce_scatter(World& world);
void check_overlapping_calls(World& world);
void check_small_verbs(World& world);
void check_agreement(World& world);
void check_mesh(World& world);
void check_gradients(World& world);
void check_timeout(World& world);  // with at least two ranks

}  // namespace cadre::comm
