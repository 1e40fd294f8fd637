// A folder that several ranks write together and that appears whole or not at all: it is made under another
// name beside its own and renamed at the end. Whatever fails on one rank fails on all, and leaves nothing.
#pragma once

#include <absl/functional/function_ref.h>

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "parallel/comm/mesh.h"

namespace cadre::interop {

// All ranks, who wait for each other as long as files of any size take. A rank that is lost ends the others all the same, by
// whoever started them.
std::unique_ptr<comm::Communicator> patient_ranks(comm::World& world, const std::string& name);

class SharedFolder {
 public:
  // Throws Error(kUsage) when `folder` exists, Error(kCheckpoint) when it cannot be made. Collective, as all
  // of these.
  SharedFolder(comm::Communicator& ranks, std::filesystem::path folder);
  ~SharedFolder();  // removes what was not committed
  SharedFolder(const SharedFolder&) = delete;
  SharedFolder& operator=(const SharedFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }  // where to write
  // Runs `work` on every rank, or on rank 0 alone, and throws on all ranks what it threw on any.
  void on_all(std::string_view label, absl::FunctionRef<void()> work);
  void on_first(std::string_view label, absl::FunctionRef<void()> work);
  void commit();

 private:
  comm::Communicator& ranks_;
  std::filesystem::path folder_, temporary_;
};

}  // namespace cadre::interop
