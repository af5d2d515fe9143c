"""Stable Diffusion 2's UNet and VAE decoder and OpenCLIP's image tower in PyTorch, for machines without diffusers: the modules and the
operations of diffusers 0.42 and open_clip 3.3, by the names that checkpoints give their parameters."""
import math

import torch
import torch.nn.functional as F
from torch import nn


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def maps(tokens, height, width):
    return tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous()


class Attention(nn.Module):
    """`keep_probabilities` computes them as a matrix, as self-attention guidance needs of one layer."""

    def __init__(self, width, heads, context=None, bias=False):
        super().__init__()
        self.heads, self.keep_probabilities, self.probabilities = heads, False, None
        self.to_q = nn.Linear(width, width, bias=bias)
        self.to_k = nn.Linear(context or width, width, bias=bias)
        self.to_v = nn.Linear(context or width, width, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context=None):
        context = x if context is None else context
        q, k, v = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (self.to_q(x), self.to_k(context), self.to_v(context)))
        if self.keep_probabilities:
            self.probabilities = torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, dim=3)
            y = self.probabilities @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


class Geglu(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=2)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width, heads, context):
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.attn2 = nn.LayerNorm(width), Attention(width, heads, context)
        self.norm3, self.ff = nn.LayerNorm(width), nn.ModuleDict({"net": nn.ModuleList([Geglu(width), nn.Identity(), nn.Linear(4 * width, width)])})

    def forward(self, x, context):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        widen, _, narrow = self.ff["net"]
        return x + narrow(widen(self.norm3(x)))


class Transformer(nn.Module):
    def __init__(self, width, heads, context, groups):
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = nn.Linear(width, width), nn.Linear(width, width)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, heads, context)])

    def forward(self, x, context):
        inside = self.proj_in(tokens(self.norm(x)))
        return x + maps(self.proj_out(self.transformer_blocks[0](inside, context)), *x.shape[2:])


class Resnet(nn.Module):
    def __init__(self, inputs, outputs, groups, eps, time=None):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs, eps=eps), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs, eps=eps), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time_emb_proj = time and nn.Linear(time, outputs)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x, time=None):
        y = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            y = y + self.time_emb_proj(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + y


class Downsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x):
        return self.conv(x)


class Upsample(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.Module):
    """Resnets, each followed by a transformer if `transformer` makes one, and perhaps a change of size."""

    def __init__(self, resnets, transformer, down=None, up=None):
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList([transformer() for _ in resnets] if transformer else [])
        self.downsamplers, self.upsamplers = nn.ModuleList([down] if down else []), nn.ModuleList([up] if up else [])

    def forward(self, x, time, context, skips=None):
        kept = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x if skips is None else torch.cat([x, skips.pop()], dim=1), time)
            x = self.attentions[i](x, context) if len(self.attentions) else x
            kept.append(x)
        for resample in (*self.downsamplers, *self.upsamplers):
            x = resample(x)
            kept.append(x)
        return x, kept


class Unet(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths, heads, groups = config["block_out_channels"], config["attention_head_dim"], config["norm_num_groups"]
        context, layers, self.base = config["cross_attention_dim"], config["layers_per_block"], widths[0]
        time, last = 4 * widths[0], len(widths) - 1
        resnet = lambda inputs, outputs: Resnet(inputs, outputs, groups, config["norm_eps"], time)
        transformer = lambda level: lambda: Transformer(widths[level], heads[level], context, groups)
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict({"linear_1": nn.Linear(widths[0], time), "linear_2": nn.Linear(time, time)})
        self.down_blocks, self.up_blocks, kept = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        for level, kind in enumerate(config["down_block_types"]):
            sources = [widths[max(level - 1, 0)]] + [widths[level]] * (layers - 1)
            down = Downsample(widths[level]) if level < last else None
            with_context = transformer(level) if "CrossAttn" in kind else None
            self.down_blocks.append(Block([resnet(source, widths[level]) for source in sources], with_context, down=down))
            kept += [widths[level]] * (layers + (level < last))
        middle = [resnet(widths[last], widths[last]) for _ in range(2)]
        self.mid_block = nn.ModuleDict({"resnets": nn.ModuleList(middle), "attentions": nn.ModuleList([transformer(last)()])})
        above = widths[last]
        for kind, level in zip(config["up_block_types"], range(last, -1, -1)):
            sources = [above] + [widths[level]] * layers
            up = Upsample(widths[level]) if level else None
            with_context = transformer(level) if "CrossAttn" in kind else None
            self.up_blocks.append(Block([resnet(source + kept.pop(), widths[level]) for source in sources], with_context, up=up))
            above = widths[level]
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=config["norm_eps"])
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)

    def embed_time(self, timestep, like):
        half = self.base // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=like.device) / half)
        angles = timestep.to(like.device).expand(like.shape[0])[:, None].float() * frequencies
        embedded = torch.cat([angles.cos(), angles.sin()], dim=1).to(like.dtype)
        return self.time_embedding["linear_2"](F.silu(self.time_embedding["linear_1"](embedded)))

    def forward(self, latents, timestep, context):
        time = self.embed_time(timestep, latents)
        x = self.conv_in(latents)
        skips = [x]
        for block in self.down_blocks:
            x, kept = block(x, time, context)
            skips += kept
        first, second = self.mid_block["resnets"]
        x = second(self.mid_block["attentions"][0](first(x, time), context), time)
        for block in self.up_blocks:
            x, _ = block(x, time, context, skips)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class DecoderAttention(Attention):
    def __init__(self, width, groups):
        super().__init__(width, 1, bias=True)
        self.group_norm = nn.GroupNorm(groups, width, eps=1e-6)

    def forward(self, x):
        return x + maps(super().forward(tokens(self.group_norm(x))), *x.shape[2:])


class DecoderBlock(nn.Module):
    def __init__(self, resnets, up):
        super().__init__()
        self.resnets, self.upsamplers = nn.ModuleList(resnets), nn.ModuleList([up] if up else [])

    def forward(self, x):
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        widths, groups, layers = config["block_out_channels"][::-1], config["norm_num_groups"], config["layers_per_block"]
        resnet = lambda inputs, outputs: Resnet(inputs, outputs, groups, 1e-6)
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1)
        middle = [resnet(widths[0], widths[0]) for _ in range(2)]
        self.mid_block = nn.ModuleDict(
            {"resnets": nn.ModuleList(middle), "attentions": nn.ModuleList([DecoderAttention(widths[0], groups)])}
        )
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            sources = [widths[max(level - 1, 0)]] + [width] * layers
            up = Upsample(width) if level < len(widths) - 1 else None
            self.up_blocks.append(DecoderBlock([resnet(source, width) for source in sources], up))
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config["out_channels"], 3, padding=1)

    def forward(self, latents):
        first, second = self.mid_block["resnets"]
        x = second(self.mid_block["attentions"][0](first(self.conv_in(latents))))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class VaeDecoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.post_quant_conv = nn.Conv2d(config["latent_channels"], config["latent_channels"], 1)
        self.decoder = Decoder(config)

    def forward(self, latents):
        return self.decoder(self.post_quant_conv(latents))


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.randn(3 * width, width) * width**-0.5), nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        parts = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=2)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), SelfAttention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class ImageTower(nn.Module):
    """Of `model_cfg` in open_clip_config.json: features of images whose channels are normalised."""

    def __init__(self, config):
        super().__init__()
        vision, width = config["vision_cfg"], config["vision_cfg"]["width"]
        self.size, patch, scale = vision["image_size"], vision["patch_size"], width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn((self.size // patch) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = [ResidualBlock(width, width // vision.get("head_width", 64)) for _ in range(vision["layers"])]
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList(blocks)})
        self.proj = nn.Parameter(scale * torch.randn(width, config["embed_dim"]))

    def forward(self, image):
        patches = tokens(self.conv1(image))
        first = self.class_embedding.expand(patches.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.proj
