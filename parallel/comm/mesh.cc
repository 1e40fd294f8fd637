#include "parallel/comm/mesh.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "parallel/comm/peer_memory.h"
#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

bool has_environment(const char* name) {
  return std::getenv(name) != nullptr;
}

// A whole number of the environment; the first of the names that is set.
int number_in(std::initializer_list<const char*> names, const char* meaning) {
  for (const char* name : names) {
    if (!has_environment(name)) continue;
    const std::string_view text = std::getenv(name);
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    require(error == std::errc() && end == text.data() + text.size(), ExitCode::kUsage,
            "{} is '{}', expected a whole number: {}", name, text, meaning);
    return number;
  }
  fail(ExitCode::kUsage, "CADRE_MASTER is set, but neither of {} says {}", fmt::join(names, ", "), meaning);
}

}  // namespace

MeshConfig read_mesh(base::Section section) {
  MeshConfig config;
  constexpr int64_t kMostRanks = 1 << 20;
  config.ep = int(section.integer("ep", config.ep, {1, kMostRanks}));
  config.cp = int(section.integer("cp", config.cp, {1, kMostRanks}));
  config.zero = int(section.integer("zero", config.zero, {0, 3}));
  constexpr double kMostSeconds = 1e8;  // three years, which int64 counts in nanoseconds
  config.timeout_s = section.number("timeout_s", config.timeout_s, {.max = kMostSeconds, .above = 0});
  section.finish();
  return config;
}

// mpirun and srun's PMI plugins tell a rank who it is by environment variables; without them whoever starts the ranks
// does so, or Slurm.
std::unique_ptr<World> make_world(int* argc, char*** argv) {
  if (const char* meeting = std::getenv("CADRE_MASTER")) {
    constexpr auto kTimeout = std::chrono::minutes(10);
    return make_tcp_world(number_in({"CADRE_RANK", "SLURM_PROCID"}, "which rank this is"),
                          number_in({"CADRE_RANKS", "SLURM_STEP_NUM_TASKS"}, "how many ranks there are"),
                          meeting, kTimeout);
  }
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (has_environment(name)) return make_mpi_world(argc, argv);
  }
  // Without PMI every task would take itself for the only rank, and all would write the same files.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  require(!has_environment("SLURM_PROCID") || tasks == nullptr || std::atoi(tasks) <= 1, ExitCode::kUsage,
          "srun started {} tasks without MPI; use srun --mpi=pmix, set CADRE_MASTER=host:port (or file:PATH) "
          "for ranks "
          "that meet without MPI, or start one task",
          tasks ? tasks : "");
  return make_local_world();
}

Mesh::Mesh(World& world, const MeshConfig& config) : world_(world), config_(config) {
  for (const auto& [key, degree] : {std::pair("ep", config.ep), std::pair("cp", config.cp)}) {
    require(world.size() % degree == 0, ExitCode::kUsage,
            "found {} ranks and mesh.{} = {}: {} must divide the number of ranks; start a multiple of {} "
            "ranks, or change mesh.{}",
            world.size(), key, degree, key, degree, key);
  }
  data_ = world.everyone("data");
  expert_ = world.split([ep = config.ep](int rank) { return rank / ep; }, "expert");
  replicas_ = world.split([ep = config.ep](int rank) { return rank % ep; }, "replicas");
  context_ = world.split([cp = config.cp](int rank) { return rank / cp; }, "context");
  const std::chrono::milliseconds timeout(int64_t(1e3 * config.timeout_s));
  for (const auto& group : {&data_, &expert_, &replicas_, &context_}) (*group)->set_timeout(timeout);
  expert_peers_ = std::make_unique<PeerMemory>(*expert_, world);
}

Mesh::~Mesh() = default;

void Mesh::connect(device::Queue& queue) {
  if (queue.kind() == device::DeviceKind::kCpu) return;
  const auto make = [&](const std::unique_ptr<Communicator>& host) {
    // Alone in its group a rank sends nothing.
    return host->size() == 1 ? nullptr : make_device_communicator(*host, queue, world_);
  };
  device_data_ = make(data_);
  device_expert_ = make(expert_);
  if (config_.ep > 1) device_replicas_ = make(replicas_);
  device_context_ = make(context_);
}

void Mesh::set_tensor_imitation(bool on) {
  for (Communicator* group : {&data_tensors(), &expert_tensors(), &replica_tensors(), &context_tensors()})
    group->set_imitation(on);
  expert_peers_->set_imitation(on);
}

}  // namespace cadre::comm
