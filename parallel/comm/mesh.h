// The mesh of ranks: which rank shares what with whom. World rank r has data rank r (context parallelism, cp,
// is a seam only: 1). Expert-parallel groups are ep consecutive ranks; rank r holds the experts of expert
// rank r % ep. Ranks with equal r % ep are replicas of the same experts.
#pragma once

#include <functional>
#include <memory>

#include "parallel/base/config.h"
#include "parallel/comm/communicator.h"

namespace cadre::comm {

struct MeshConfig {
  int ep = 1;    // expert degree; divides the number of ranks
  int cp = 1;    // context degree; only 1 so far
  int zero = 1;  // optimizer states sharded over data ranks
};
MeshConfig read_mesh(base::Section section);

// Makes the communicators of one transport.
class World {
 public:
  virtual ~World() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int local_size() const = 0;  // ranks on this host
  // A communicator of the ranks that pass the same color, ordered by world rank. Collective over the world.
  virtual std::unique_ptr<Communicator> split(int color, const std::string& name) = 0;
  // Ends all ranks at once with this exit code. Does not return in a real job.
  virtual void abort(int exit_code) = 0;
};

// MPI_COMM_WORLD when started by mpirun or srun; otherwise one rank, without MPI being initialised.
std::unique_ptr<World> make_world(int* argc, char*** argv);

// num_ranks threads of this process, each with a World of its own; returns when all ended. The first
// exception (lowest rank) is rethrown after the others were released from their collectives.
void run_threads(int num_ranks, const std::function<void(World&)>& body);

class Mesh {
 public:
  Mesh(World& world, const MeshConfig& config);  // communicators are made in one fixed order
  const MeshConfig& config() const { return config_; }
  Communicator& data() const { return *data_; }          // all data ranks
  Communicator& expert() const { return *expert_; }      // the ep ranks that together hold all experts
  Communicator& replicas() const { return *replicas_; }  // ranks that hold the same experts
  World& world() const { return world_; }

 private:
  World& world_;  // borrowed; outlives the mesh
  MeshConfig config_;
  std::unique_ptr<Communicator> data_, expert_, replicas_;
};

}  // namespace cadre::comm
