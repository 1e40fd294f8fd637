// The lists of slots for few tokens, by one block in one launch: what generation makes in every layer of every pass.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace cadre::moe::cuda {

struct TopKLists {
  const int32_t* choice;  // (T, k)
  const float* gates;     // (T, E)
  int64_t tokens;
  int k, experts;
  int64_t slots;  // at most; those behind the last are cleared
  int64_t *tally, *offsets;
  int32_t* slot_token;
  float* slot_gate;
  int32_t *row_offsets, *row_slots;  // slots of each token, see slots_by_row; null: not made
};

// As MoeKernels::top_k_slots; false, and nothing is done, where it does not fit one block.
bool top_k_slots_of_few(cudaStream_t stream, const TopKLists& lists);
// As MoeKernels::slots_by_row; likewise.
bool slots_by_row_of_few(cudaStream_t stream, const int32_t* slot_row, int64_t slots, int64_t rows,
                         int32_t* row_offsets, int32_t* row_slots);

}  // namespace cadre::moe::cuda
