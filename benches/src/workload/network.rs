//! A network as its layers: what each computes, moves and holds, from its shape alone.
//!
//! Counts are of one item of a batch (an image, a sequence) unless they say otherwise. A multiply-add counts as two
//! floating-point operations.

use serde::Deserialize;

use crate::check::{Invalid, within};

/// Largest dimension of a layer, so that no product of four overflows what it is kept in.
const DIMENSION_MAX: u64 = 1 << 24;

/// Outputs that one block of a convolution computes: a tile of 64 × 64, which libraries' kernels for FP32 use or come
/// close to `[est]`.
const CONVOLUTION_TILE: u64 = 64 * 64;

/// Output features that one block of a matrix-vector product computes: one a warp of a block of 256 threads `[est]`.
const LINEAR_TILE: u64 = 8;

/// Elements that one block handles which only reads, computes and writes: four a thread of 256, as one 16-byte access
/// of FP32 `[est]`.
const ELEMENTS_PER_BLOCK: u64 = 4 * 256;

/// A network: its layers in the order in which they run.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// Bytes of a parameter and of an activation: 1 to 8.
    element_bytes: u64,
    #[serde(rename = "block")]
    blocks: Vec<Block>,
}

/// Layers that may repeat.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    /// What the source calls it; for readers of the file.
    name: String,
    /// How often it stands there in a row: 1 to 1000.
    #[serde(default = "one")]
    repeat: u64,
    layers: Vec<Layer>,
}

/// One layer. Each is one kernel of a forward pass, and two with a batch norm of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Layer {
    Convolution(Convolution),
    Linear(Linear),
    Attention(Attention),
    Embedding(Embedding),
    Elementwise(Elementwise),
}

/// A convolution over a square image, without bias.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Convolution {
    in_channels: u64,
    out_channels: u64,
    /// Side of the image that it reads.
    input_size: u64,
    /// Side of its window.
    kernel: u64,
    #[serde(default = "one")]
    stride: u64,
    #[serde(default)]
    padding: u64,
    /// Whether a batch norm follows: two parameters a channel, part of the convolution in inference and a kernel of its
    /// own in training.
    #[serde(default)]
    batch_norm: bool,
}

/// A fully connected layer: a matrix that every item of the batch is multiplied with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Linear {
    in_features: u64,
    out_features: u64,
    #[serde(default)]
    bias: bool,
}

/// Attention of one new token over the keys and values of those before it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Attention {
    /// Tokens before it.
    context: u64,
    /// Elements of one token's keys, and of its values.
    width: u64,
}

/// One row of a table for each item.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Embedding {
    rows: u64,
    width: u64,
}

/// Whatever touches each element once: sums, pooling, norms.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Elementwise {
    /// Elements read.
    reads: u64,
    /// Elements written.
    writes: u64,
    #[serde(default)]
    parameters: u64,
}

fn one() -> u64 {
    1
}

/// How a network is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Pass {
    /// Forward, with every batch norm folded into its convolution.
    Inference,
    /// Forward; backward, where each layer with parameters costs its forward work twice (the gradient of its input and
    /// that of its parameters) and each other one once; then stochastic gradient descent with momentum.
    Training,
}

/// What one kernel computes and moves, for the whole batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Work {
    /// Floating-point operations.
    pub(crate) flops: f64,
    /// Bytes read from and written to device memory.
    pub(crate) bytes: f64,
    /// Blocks of the grid.
    pub(crate) blocks: u64,
}

impl Network {
    /// Checks every range. The keys of a refusal are relative to this file.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        within("element_bytes", self.element_bytes, 1..=8)?;
        for (index, block) in self.blocks.iter().enumerate() {
            let key = format!("block[{index}]");
            within(&format!("{key}.repeat"), block.repeat, 1..=1000)?;
            for (index, layer) in block.layers.iter().enumerate() {
                layer.check(&format!("{key}.layers[{index}]"))?;
            }
        }
        Ok(())
    }

    fn layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.blocks
            .iter()
            .flat_map(|block| (0..block.repeat).flat_map(|_| block.layers.iter()))
    }

    /// Trained parameters.
    pub(crate) fn parameters(&self) -> u64 {
        self.layers().map(Layer::parameters).sum()
    }

    /// Multiply-adds of convolutions, products and attention, an item: what is published as a network's FLOPs.
    #[cfg(test)]
    pub(crate) fn multiply_adds(&self) -> u64 {
        self.layers().map(Layer::multiply_adds).sum()
    }

    /// Device memory that it holds between two runs, in bytes: parameters (in training with a gradient and a momentum
    /// each) and what attention remembers.
    pub(crate) fn held_bytes(&self, pass: Pass, batch: u64) -> u64 {
        let copies = match pass {
            Pass::Inference => 1,
            Pass::Training => 3,
        };
        let remembered: u64 = self.layers().map(Layer::remembered).sum();
        (copies * self.parameters() + batch * remembered) * self.element_bytes
    }

    /// The kernels of one run, in order.
    pub(crate) fn kernels(&self, pass: Pass, batch: u64) -> Vec<Work> {
        let size = Size {
            batch,
            element_bytes: self.element_bytes,
        };
        let forward = self.layers().flat_map(|layer| layer.forward(pass, size));
        if pass == Pass::Inference {
            return forward.collect();
        }
        let backward = self.layers().rev().flat_map(|layer| layer.backward(size));
        forward
            .chain(backward)
            .chain([self.optimiser_step()])
            .collect()
    }

    /// Reads parameter, gradient and momentum, and writes parameter and momentum: two multiply-adds each.
    fn optimiser_step(&self) -> Work {
        let parameters = self.parameters();
        Work {
            flops: 4.0 * parameters as f64,
            bytes: 5.0 * (parameters * self.element_bytes) as f64,
            blocks: parameters.div_ceil(ELEMENTS_PER_BLOCK),
        }
    }
}

/// What the size of a kernel depends on beside its layer.
#[derive(Clone, Copy)]
struct Size {
    batch: u64,
    element_bytes: u64,
}

impl Size {
    /// Work that reads and writes `elements` an item and computes one operation for each, in blocks of the usual size.
    fn streaming(self, elements: u64, per_item: u64) -> Work {
        Work {
            flops: (per_item * self.batch) as f64,
            bytes: (elements * self.batch * self.element_bytes) as f64,
            blocks: (per_item * self.batch).div_ceil(ELEMENTS_PER_BLOCK),
        }
    }
}

impl Layer {
    fn check(&self, key: &str) -> Result<(), Invalid> {
        let positive = |kind: &str, fields: &[(&str, u64)]| {
            fields.iter().try_for_each(|(name, value)| {
                within(&format!("{key}.{kind}.{name}"), *value, 1..=DIMENSION_MAX)
            })
        };
        match self {
            Self::Convolution(layer) => layer.check(&format!("{key}.convolution")),
            Self::Linear(layer) => positive(
                "linear",
                &[
                    ("in_features", layer.in_features),
                    ("out_features", layer.out_features),
                ],
            ),
            Self::Attention(layer) => positive(
                "attention",
                &[("context", layer.context), ("width", layer.width)],
            ),
            Self::Embedding(layer) => {
                positive("embedding", &[("rows", layer.rows), ("width", layer.width)])
            }
            Self::Elementwise(layer) => positive(
                "elementwise",
                &[("reads", layer.reads), ("writes", layer.writes)],
            ),
        }
    }

    fn parameters(&self) -> u64 {
        match self {
            Self::Convolution(layer) => {
                let norm = if layer.batch_norm { 2 } else { 0 };
                layer.weights() + norm * layer.out_channels
            }
            Self::Linear(layer) => {
                let biases = if layer.bias { layer.out_features } else { 0 };
                layer.in_features * layer.out_features + biases
            }
            Self::Attention(_) => 0,
            Self::Embedding(layer) => layer.rows * layer.width,
            Self::Elementwise(layer) => layer.parameters,
        }
    }

    /// Elements that stay in memory for each item of the batch.
    fn remembered(&self) -> u64 {
        match self {
            Self::Attention(layer) => 2 * layer.context * layer.width,
            _ => 0,
        }
    }

    fn multiply_adds(&self) -> u64 {
        match self {
            Self::Convolution(layer) => layer.weights() * layer.output_size().pow(2),
            Self::Linear(layer) => layer.in_features * layer.out_features,
            Self::Attention(layer) => 2 * layer.context * layer.width,
            Self::Embedding(_) | Self::Elementwise(_) => 0,
        }
    }

    /// The layer's own kernel.
    fn kernel(&self, size: Size) -> Work {
        let flops = 2.0 * self.multiply_adds() as f64 * size.batch as f64;
        let moved =
            |per_item: u64, once: u64| ((per_item * size.batch + once) * size.element_bytes) as f64;
        match self {
            Self::Convolution(layer) => Work {
                flops,
                bytes: moved(layer.inputs() + layer.outputs(), layer.weights()),
                blocks: (layer.outputs() * size.batch).div_ceil(CONVOLUTION_TILE),
            },
            Self::Linear(layer) => Work {
                flops,
                bytes: moved(layer.in_features + layer.out_features, self.parameters()),
                blocks: layer.out_features.div_ceil(LINEAR_TILE),
            },
            Self::Attention(layer) => Work {
                flops,
                bytes: moved(self.remembered() + 2 * layer.width, 0),
                blocks: (layer.context * layer.width * size.batch).div_ceil(ELEMENTS_PER_BLOCK),
            },
            Self::Embedding(layer) => size.streaming(2 * layer.width, layer.width),
            Self::Elementwise(layer) => {
                size.streaming(layer.reads + layer.writes, layer.reads.max(layer.writes))
            }
        }
    }

    fn forward(&self, pass: Pass, size: Size) -> Vec<Work> {
        let mut kernels = vec![self.kernel(size)];
        if pass == Pass::Training {
            kernels.extend(self.norm(2, size));
        }
        kernels
    }

    fn backward(&self, size: Size) -> Vec<Work> {
        let gradients = match self {
            Self::Convolution(_) | Self::Linear(_) => 2,
            _ => 1,
        };
        let norm = self.norm(4, size);
        let own = (0..gradients).map(|_| self.kernel(size));
        norm.into_iter().chain(own).collect()
    }

    /// The batch norm behind a convolution, which reads its outputs' size `reads` times and writes it once: forward
    /// once for the mean and once to apply it, backward the gradient as well each time.
    fn norm(&self, reads: u64, size: Size) -> Option<Work> {
        match self {
            Self::Convolution(layer) if layer.batch_norm => {
                Some(size.streaming((reads + 1) * layer.outputs(), layer.outputs()))
            }
            _ => None,
        }
    }
}

impl Convolution {
    fn check(&self, key: &str) -> Result<(), Invalid> {
        const CHANNELS_MAX: u64 = 1 << 16;
        const SIZE_MAX: u64 = 1 << 13;
        let within = |name: &str, value, range| within(&format!("{key}.{name}"), value, range);
        within("in_channels", self.in_channels, 1..=CHANNELS_MAX)?;
        within("out_channels", self.out_channels, 1..=CHANNELS_MAX)?;
        within("input_size", self.input_size, 1..=SIZE_MAX)?;
        within("stride", self.stride, 1..=self.input_size)?;
        within("padding", self.padding, 0..=self.input_size)?;
        within(
            "kernel",
            self.kernel,
            1..=self.input_size + 2 * self.padding,
        )
    }

    fn output_size(&self) -> u64 {
        (self.input_size + 2 * self.padding - self.kernel) / self.stride + 1
    }

    fn weights(&self) -> u64 {
        self.in_channels * self.out_channels * self.kernel.pow(2)
    }

    fn inputs(&self) -> u64 {
        self.in_channels * self.input_size.pow(2)
    }

    fn outputs(&self) -> u64 {
        self.out_channels * self.output_size().pow(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue;

    fn shipped(name: &str) -> Network {
        toml::from_str(catalogue::network(name).unwrap()).unwrap()
    }

    fn sum(kernels: &[Work], of: fn(&Work) -> f64) -> f64 {
        kernels.iter().map(of).sum()
    }

    #[test]
    fn resnet50_has_the_parameters_and_multiply_adds_that_torchvision_states() {
        let network = shipped("resnet50");
        assert_eq!(network.parameters(), 25_557_032);
        assert_eq!(network.multiply_adds() / 10_000_000, 408); // published as 4.09 G, rounded
    }

    /// He et al., table 1: 3.8 G multiply-adds, with the stride in the 1 × 1 convolution in front of the 3 × 3.
    #[test]
    fn resnet50_with_the_papers_own_strides_has_the_papers_multiply_adds() {
        let mut network = shipped("resnet50");
        for block in &mut network.blocks {
            let [Layer::Convolution(first), Layer::Convolution(second), ..] =
                block.layers.as_mut_slice()
            else {
                continue;
            };
            std::mem::swap(&mut first.stride, &mut second.stride);
            second.input_size = first.output_size();
        }
        assert_eq!(network.multiply_adds() / 10_000_000, 385);
        assert_eq!(network.parameters(), 25_557_032);
    }

    #[test]
    fn resnet50_is_53_convolutions_16_sums_two_poolings_and_one_product() {
        let network = shipped("resnet50");
        let count =
            |wanted: fn(&Layer) -> bool| network.layers().filter(|each| wanted(each)).count();
        assert_eq!(count(|layer| matches!(layer, Layer::Convolution(_))), 53);
        assert_eq!(count(|layer| matches!(layer, Layer::Elementwise(_))), 18);
        assert_eq!(count(|layer| matches!(layer, Layer::Linear(_))), 1);
        assert_eq!(network.kernels(Pass::Inference, 1).len(), 72);
    }

    /// Layer by layer: what one writes, the next one reads.
    #[test]
    fn the_images_of_resnet50_fit_from_layer_to_layer() {
        let network = shipped("resnet50");
        let mut written = 3 * 224 * 224;
        for block in &network.blocks {
            let (main, shortcut) = match block.layers.as_slice() {
                [a, b, c, shortcut, _sum] => (vec![a, b, c], Some(shortcut)),
                [a, b, c, _sum] => (vec![a, b, c], None),
                _ => continue,
            };
            let Some(Layer::Elementwise(sum)) = block.layers.last() else {
                panic!("{}: no sum", block.name);
            };
            let block_input = if block.name == "conv2_x, first" {
                200_704
            } else {
                written
            };
            written = block_input;
            for layer in main {
                let Layer::Convolution(layer) = layer else {
                    panic!("{}: {layer:?}", block.name);
                };
                assert_eq!(layer.inputs(), written, "{}", block.name);
                written = layer.outputs();
            }
            if let Some(Layer::Convolution(shortcut)) = shortcut {
                assert_eq!(
                    (shortcut.inputs(), shortcut.outputs()),
                    (block_input, written)
                );
            }
            assert_eq!(
                (sum.reads, sum.writes),
                (2 * written, written),
                "{}",
                block.name
            );
        }
        assert_eq!(written, 2048 * 7 * 7);
    }

    #[test]
    fn a_batch_multiplies_operations_and_activations_but_not_weights() {
        let network = shipped("resnet50");
        let (one, four) = (
            network.kernels(Pass::Inference, 1),
            network.kernels(Pass::Inference, 4),
        );
        assert_eq!(
            4.0 * sum(&one, |work| work.flops),
            sum(&four, |work| work.flops)
        );
        let weights_bytes = 4.0 * 25_503_912.0; // without the 53 120 parameters of batch norms, which are folded
        let activations = |kernels: &[Work]| sum(kernels, |work| work.bytes) - weights_bytes;
        assert_eq!(4.0 * activations(&one), activations(&four));
    }

    #[test]
    fn training_computes_three_times_what_inference_does_and_updates_every_parameter() {
        let network = shipped("resnet50");
        let products = |pass| {
            let kernels = network.kernels(pass, 16);
            let products = kernels.iter().filter(|work| work.flops > 3.0 * work.bytes);
            products.map(|work| work.flops).sum::<f64>()
        };
        assert_eq!(3.0 * products(Pass::Inference), products(Pass::Training));
        let update = network.kernels(Pass::Training, 16).pop().unwrap();
        assert_eq!(update.bytes, 5.0 * 4.0 * 25_557_032.0);
        assert_eq!(network.held_bytes(Pass::Training, 16), 3 * 4 * 25_557_032);
        // Forward 72 and a norm for each of 53; backward two for each of 54, one for each of 18, 53 norms; the update.
        assert_eq!(
            network.kernels(Pass::Training, 16).len(),
            72 + 53 + 108 + 18 + 53 + 1
        );
    }

    #[test]
    fn llama_2_7b_has_its_published_parameters() {
        assert_eq!(shipped("llama-2-7b").parameters(), 6_738_415_616);
    }

    /// Each weight but the embedding table's is read once a step, for however many sequences.
    #[test]
    fn decoding_reads_the_weights_once_a_step_and_the_context_of_each_sequence() {
        let network = shipped("llama-2-7b");
        let read = |batch| sum(&network.kernels(Pass::Inference, batch), |work| work.bytes);
        let weights = 2.0 * (6_738_415_616.0 - 32_000.0 * 4096.0 - 65.0 * 4096.0);
        let per_sequence = read(2) - read(1);
        assert_eq!(read(1) - per_sequence, weights);
        let context = 32.0 * 2.0 * 512.0 * 4096.0 * 2.0;
        assert!(
            (context..1.05 * context).contains(&per_sequence),
            "{per_sequence} of {context}"
        );
        assert_eq!(
            network.held_bytes(Pass::Inference, 3),
            2 * 6_738_415_616 + 3 * context as u64
        );
    }

    #[test]
    fn a_shape_that_cannot_be_is_refused_by_its_key() {
        let network = |layer: &str| -> Network {
            let text = format!("element_bytes = 4\n[[block]]\nname = \"x\"\nlayers = [{layer}]");
            toml::from_str(&text).unwrap()
        };
        let refused = |layer: &str| network(layer).check().unwrap_err().to_string();
        assert_eq!(
            refused(
                "{ convolution = { in_channels = 1, out_channels = 1, input_size = 4, kernel = 5 } }"
            ),
            "block[0].layers[0].convolution.kernel: 5 is not within 1 to 4"
        );
        assert_eq!(
            refused("{ linear = { in_features = 0, out_features = 1 } }"),
            "block[0].layers[0].linear.in_features: 0 is not within 1 to 16777216"
        );
    }
}
