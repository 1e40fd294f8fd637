// What the tests of whole runs on a GPU share.
#pragma once

#include <string>
#include <vector>

#include "parallel/device/accelerator.h"
#include "parallel/device/transfer.h"
#include "tests/trainer/run_fixture.h"

namespace cadre::trainer::testing {

using Overrides = std::vector<std::string>;

inline const Overrides kCpu = {"device=cpu"}, kFp32 = {"device=cuda", "precision=fp32"},
                       kBf16 = {"device=cuda"};

inline bool have_gpu() {
  for (const device::Accelerator& entry : device::accelerators()) {
    if (entry.probe().num_devices > 0) return true;
  }
  return false;
}

inline Overrides with(Overrides overrides, const Overrides& more) {
  overrides.insert(overrides.end(), more.begin(), more.end());
  return overrides;
}

class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU here";
  }
};

class CudaRun : public CudaTest, public ::testing::WithParamInterface<Overrides> {};

// Gradients of a model after a backward pass, by row, whatever type they are stored in.
inline std::vector<std::vector<float>> gradients(ModelState& model) {
  std::vector<std::vector<float>> rows;
  for (int row = 0; row < int(model.table.rows().size()); ++row) {
    const device::Placement& place = model.layout.at(row);
    std::vector<float> values(size_t(place.count));
    if (model.bf16()) {
      const auto& store = static_cast<device::ParamStore<device::bf16>&>(model.store);
      std::vector<device::bf16> narrow(values.size());
      device::download<device::bf16>(model.queue, store.grads(place.group).rows(place.offset, place.count),
                                     narrow);
      model.queue.wait();
      std::copy(narrow.begin(), narrow.end(), values.begin());
    } else {
      device::download<float>(model.queue, model.store.grads(place.group).rows(place.offset, place.count),
                              values);
      model.queue.wait();
    }
    rows.push_back(values);
  }
  return rows;
}

// The largest difference of each row's elements, relative to the row's largest element.
inline void expect_same_gradients(const std::vector<std::vector<float>>& found,
                                  const std::vector<std::vector<float>>& exact, double tolerance,
                                  const std::string& what) {
  ASSERT_EQ(found.size(), exact.size());
  for (size_t row = 0; row < exact.size(); ++row) {
    double largest = 0, difference = 0;
    for (size_t i = 0; i < exact[row].size(); ++i) {
      largest = std::max(largest, std::abs(double(exact[row][i])));
      difference = std::max(difference, std::abs(double(exact[row][i]) - double(found[row][i])));
    }
    EXPECT_LE(difference, tolerance * largest) << what << ", row " << row;
  }
}

}  // namespace cadre::trainer::testing
