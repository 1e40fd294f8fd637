#include "trainer/interop/shared_folder.h"

#include <chrono>

#include "parallel/base/files.h"

namespace cadre::interop {

namespace fs = std::filesystem;

std::unique_ptr<comm::Communicator> patient_ranks(comm::World& world, const std::string& name) {
  auto ranks = world.everyone(name);
  constexpr auto kPatience = std::chrono::hours(24);
  ranks->set_timeout(kPatience);
  return ranks;
}

SharedFolder::SharedFolder(comm::Communicator& ranks, fs::path folder)
    : ranks_(ranks), folder_(fs::absolute(folder).lexically_normal()) {
  if (!folder_.has_filename()) folder_ = folder_.parent_path();  // "out/" is "out"
  temporary_ = folder_.parent_path() / (".tmp-" + folder_.filename().string());
  on_first("make the folder", [&] {
    require(!fs::exists(folder_), ExitCode::kUsage, "{} exists; give another name, or remove it",
            folder_.string());
    std::error_code code;
    fs::remove_all(temporary_, code);  // of one that was killed
    fs::create_directories(temporary_, code);
    require(!code, ExitCode::kCheckpoint, "cannot create {}: {}", temporary_.string(), code.message());
  });
}

SharedFolder::~SharedFolder() {
  std::error_code ignored;
  if (ranks_.rank() == 0) fs::remove_all(temporary_, ignored);
}

void SharedFolder::on_all(std::string_view label, absl::FunctionRef<void()> work) {
  std::string message;
  int64_t code = 0;
  try {
    work();
  } catch (const Error& error) {
    message = error.what();
    code = int64_t(error.code());
  } catch (const std::exception& error) {
    message = error.what();
    code = int64_t(ExitCode::kCheckpoint);
  }
  // Ranks that failed for several reasons report the largest code with the lowest rank's message.
  code = ranks_.all_reduce(code, comm::ReduceOp::kMax, label);
  ranks_.agree(message, ExitCode(code), label);
}

void SharedFolder::on_first(std::string_view label, absl::FunctionRef<void()> work) {
  on_all(label, [&] {
    if (ranks_.rank() == 0) work();
  });
}

void SharedFolder::commit() {
  on_first("put the folder in place",
           [&] { base::rename_durably(temporary_, folder_, ExitCode::kCheckpoint); });
}

}  // namespace cadre::interop
