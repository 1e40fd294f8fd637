#include "parallel/comm/mesh.h"

#include <cstdlib>

#include "parallel/comm/transports.h"

namespace cadre::comm {
namespace {

bool has_environment(const char* name) {
  return std::getenv(name) != nullptr;
}

}  // namespace

MeshConfig read_mesh(base::Section section) {
  MeshConfig config;
  constexpr int64_t kMostRanks = 1 << 20;
  config.ep = int(section.integer("ep", config.ep, {1, kMostRanks}));
  config.cp = int(section.integer("cp", config.cp, {1, kMostRanks}));
  config.zero = int(section.integer("zero", config.zero, {0, 1}));
  if (config.cp != 1)
    section.reject("cp",
                   fmt::format("found {}, expected 1: context parallelism is not built yet", config.cp));
  section.finish();
  return config;
}

// mpirun and srun's PMI plugins tell a rank who it is by environment variables.
std::unique_ptr<World> make_world(int* argc, char*** argv) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (has_environment(name)) return make_mpi_world(argc, argv);
  }
  // Without PMI every task would take itself for the only rank, and all would write the same files.
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  require(!has_environment("SLURM_PROCID") || tasks == nullptr || std::atoi(tasks) <= 1, ExitCode::kUsage,
          "srun started {} tasks without MPI; use srun --mpi=pmix, or one task", tasks ? tasks : "");
  return make_local_world();
}

Mesh::Mesh(World& world, const MeshConfig& config) : world_(world), config_(config) {
  require(world.size() % config.ep == 0, ExitCode::kUsage,
          "found {} ranks and mesh.ep = {}: ep must divide the number of ranks; start a multiple of {} "
          "ranks, or change "
          "mesh.ep",
          world.size(), config.ep, config.ep);
  data_ = world.split(0, "data");
  expert_ = world.split(world.rank() / config.ep, "expert");
  replicas_ = world.split(world.rank() % config.ep, "replicas");
}

}  // namespace cadre::comm
