// The CUDA table of MoeKernels.
#include "moe/cuda/entries.h"

namespace cadre::moe {

template <class T>
const MoeKernels<T>& cuda_moe_kernels() {
  static const MoeKernels<T> kTable = [] {
    MoeKernels<T> table{};
    cuda::add_router_entries(table);
    cuda::add_score_entries(table);
    cuda::add_choice_entries(table);
    cuda::add_route_entries(table);
    cuda::add_slot_entries(table);
    cuda::add_hint_entries(table);
    cuda::add_balance_entries(table);
    cuda::add_row_entries(table);
    cuda::add_rank_slot_entries(table);
    cuda::add_peer_entries(table);
    cuda::add_expert_entries(table);
    if constexpr (std::is_same_v<T, device::bf16>) table.one_expert = cuda::hopper_one_expert;
    return table;
  }();
  return kTable;
}

template const MoeKernels<float>& cuda_moe_kernels<float>();
template const MoeKernels<device::bf16>& cuda_moe_kernels<device::bf16>();

}  // namespace cadre::moe
