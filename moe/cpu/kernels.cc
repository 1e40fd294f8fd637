// The CPU table of MoeKernels.
#include "moe/kernels.h"

#include "moe/cpu/entries.h"

namespace cadre::moe {

template <class T>
const MoeKernels<T>& cpu_moe_kernels() {
  static const MoeKernels<T> kTable = [] {
    MoeKernels<T> table{};
    add_score_entries(table);
    add_choice_entries(table);
    add_hint_entries(table);
    add_balance_entries(table);
    add_row_entries(table);
    add_rank_slot_entries(table);
    add_peer_entries(table);
    add_expert_entries(table);
    return table;
  }();
  return kTable;
}

template const MoeKernels<float>& cpu_moe_kernels<float>();
template const MoeKernels<double>& cpu_moe_kernels<double>();

}  // namespace cadre::moe
