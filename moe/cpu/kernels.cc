// The CPU table of MoeKernels, and the choice of a table by device.
#include "moe/kernels.h"

#include "moe/cpu/entries.h"
#include "parallel/base/errors.h"

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
    add_expert_entries(table);
    return table;
  }();
  return kTable;
}

template <class T>
const MoeKernels<T>& moe_kernels(device::DeviceKind device) {
  require(device == device::DeviceKind::kCpu, ExitCode::kUsage,
          "this build has expert kernels for the CPU only; set device: cpu");
  return cpu_moe_kernels<T>();
}

template const MoeKernels<float>& cpu_moe_kernels<float>();
template const MoeKernels<double>& cpu_moe_kernels<double>();
template const MoeKernels<float>& moe_kernels<float>(device::DeviceKind);
template const MoeKernels<double>& moe_kernels<double>(device::DeviceKind);

}  // namespace cadre::moe
